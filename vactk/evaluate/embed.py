"""Runs videos through a model and scores them, over one process or many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from vactk.data.loading import Batch, DataConfig, Picture, Problem, VideoDataset, eval_loader
from vactk.data.records import VideoSet
from vactk.errors import VactkError
from vactk.models.checkpoint import VideoModel
from vactk.models.video_clip import VideoFeatures

Scorer = Callable[[VideoFeatures], Tensor]  # features of B views -> logits (B, C)
Progress = Callable[[int, int], None]  # videos done, all videos


@dataclass(frozen=True)
class Scores:
    """Class probabilities of every video that could be read."""

    places: Tensor  # (N,) int64, in the records, ascending
    probabilities: dict[str, Tensor]  # for each scorer (N, C), mean over a video's views
    failures: list[Problem]
    partial: list[Problem]  # scored by the part that could be read


def make_accelerator(device: str, precision: str, **kwargs: Any) -> Accelerator:
    """An Accelerator on `device` ("auto": an accelerator where there is one; "cpu") in fp32, bf16 or fp16.

    Raises VactkError when the machine cannot do that.
    """
    try:
        return Accelerator(
            cpu=device == "cpu", mixed_precision="no" if precision == "fp32" else precision, **kwargs
        )
    except (ValueError, RuntimeError, ImportError) as error:
        raise VactkError(f"cannot run with --device {device} --precision {precision}: {error}") from error


def picture_of(model: VideoModel) -> Picture:
    """What the model's backbone expects of a frame."""
    backbone = model.backbone
    return Picture(backbone.image_size, backbone.mean, backbone.std)


@torch.no_grad()
def class_embeddings(
    model: VideoModel, words: tuple[str, ...], templates: tuple[str, ...], device: torch.device
) -> Tensor:
    """(C, E) of unit norm: the normalised mean over templates of normalised text embeddings (CLIP's ensemble)."""
    prompts = [template.format(word) for word in words for template in templates]
    text = model.clip.text
    parts = [
        F.normalize(text.encode(text.trim(model.backbone.tokenize(chunk)).to(device)), dim=-1)
        for chunk in (prompts[i : i + 256] for i in range(0, len(prompts), 256))
    ]
    per_class = torch.cat(parts).unflatten(0, (len(words), len(templates)))  # (C, templates, E)
    return F.normalize(per_class.mean(dim=1), dim=-1)


def similarity_scorer(classes: Tensor, scale: Tensor) -> Scorer:
    """Logits by scaled cosine similarity to class embeddings (C, E) of unit norm."""
    return lambda features: scale * F.normalize(features.frames.mean(dim=1), dim=-1) @ classes.T


@torch.no_grad()
def score_videos(
    model: VideoModel,
    videos: VideoSet,
    scorers: Mapping[str, Scorer],
    config: DataConfig,
    accelerator: Accelerator,
    *,
    batch_size: int,
    max_failed: float = 1.0,
    progress: Progress | None = None,
) -> Scores:
    """Softmax of each view's logits, averaged over a video's views (M2-CLIP's testing), in record order.

    The records are shared out over all processes, and every process gets all the scores. The model must
    already be on the accelerator's device; its mode is left as it was. Raises VactkError as soon as more than
    the share `max_failed` of the videos could not be read.
    """
    dataset = VideoDataset(videos.records, config, picture_of(model), train=False)
    rank, world = accelerator.process_index, accelerator.num_processes
    rows: list[tuple[int, dict[str, Tensor]]] = []
    failures: list[Problem] = []
    partial: list[Problem] = []
    was_training = model.clip.training
    model.train(False)
    try:
        for batch in eval_loader(dataset, batch_size, rank=rank, world=world):
            failures.extend(batch.failures)
            partial.extend(batch.partial)
            _check_failures(failures, max_failed * len(dataset) / world, len(dataset))
            if len(batch.places):
                rows.extend(_score_batch(model, batch, scorers, accelerator))
            if progress is not None:
                progress(min(len(dataset), world * (len(rows) + len(failures))), len(dataset))
    finally:
        model.train(was_training)
    rows = sorted(gather_object(rows), key=lambda row: row[0])
    places = torch.tensor([place for place, _ in rows], dtype=torch.long)
    probabilities = {
        name: torch.stack([row[name] for _, row in rows]) if rows else torch.empty(0) for name in scorers
    }
    return Scores(places, probabilities, sorted(gather_object(failures)), sorted(gather_object(partial)))


def _check_failures(failures: list[Problem], allowed: float, num_videos: int) -> None:
    if len(failures) > allowed:
        raise VactkError(
            f"{len(failures):,} of {num_videos:,} videos could not be read, more than --max-failed allows; "
            f"the last: {failures[-1].message}"
        )


def _score_batch(
    model: VideoModel, batch: Batch, scorers: Mapping[str, Scorer], accelerator: Accelerator
) -> list[tuple[int, dict[str, Tensor]]]:
    video = batch.video.to(accelerator.device, non_blocking=True)  # (B, V, T, 3, H, W)
    with accelerator.autocast():
        features = model.clip.video_features(video.flatten(0, 1))
        logits = {name: scorer(features) for name, scorer in scorers.items()}
    means = {
        name: values.float().softmax(dim=-1).unflatten(0, video.shape[:2]).mean(dim=1).cpu()
        for name, values in logits.items()
    }
    return [(int(place), {name: means[name][i] for name in scorers}) for i, place in enumerate(batch.places)]
