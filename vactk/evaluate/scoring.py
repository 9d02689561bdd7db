"""Runs videos through a model and scores them, over one process or many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from vactk.data.config import DataConfig, ImageSpec
from vactk.data.records import VideoSet
from vactk.data.video_dataset import Batch, ReadError, VideoDataset, eval_loader, released_sampling
from vactk.errors import VactkError
from vactk.evaluate.classifier import Scorer
from vactk.models.video_model import VideoModel
from vactk.progress import Progress

Row = tuple[int, dict[str, Tensor]]  # a video's place in the records, each scorer's probabilities


@dataclass(frozen=True)
class Scores:
    """Class probabilities of every video that could be read."""

    places: Tensor  # (N,) int64, in the records, ascending
    probabilities: dict[str, Tensor]  # for each scorer (N, C), mean over a video's views
    failures: list[ReadError]
    partial: list[ReadError]  # scored by the part that could be read
    notes: dict[str, int]  # what had to be chosen in sampling, and for how many videos


def image_spec(model: VideoModel) -> ImageSpec:
    """What the model's backbone expects of a frame."""
    backbone = model.backbone
    return ImageSpec(backbone.image_size, backbone.mean, backbone.std)


class Variant(NamedTuple):
    """One of several models that are scored on the same videos: what makes `model` it, and its scorers."""

    prepare: Callable[[], None]
    scorers: Mapping[str, Scorer]


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
    (scores,) = score_variants(
        model,
        videos,
        [Variant(lambda: None, scorers)],
        config,
        accelerator,
        batch_size=batch_size,
        max_failed=max_failed,
        progress=progress,
    )
    return scores


@torch.no_grad()
def score_variants(
    model: VideoModel,
    videos: VideoSet,
    variants: Sequence[Variant],
    config: DataConfig,
    accelerator: Accelerator,
    *,
    batch_size: int,
    max_failed: float = 1.0,
    progress: Progress | None = None,
) -> list[Scores]:
    """What `score_videos` gives for every variant of the model, while each video is read once."""
    config = released_sampling(config, videos.name)
    dataset = VideoDataset(videos.records, config, image_spec(model), train=False)
    rank, world = accelerator.process_index, accelerator.num_processes
    rows: list[list[Row]] = [[] for _ in variants]
    failures: list[ReadError] = []
    partial: list[ReadError] = []
    notes: Counter[str] = Counter()
    was_training = model.video_clip.training
    model.train(False)
    try:
        for batch in eval_loader(dataset, batch_size, rank=rank, world=world):
            failures.extend(batch.failures)
            partial.extend(batch.partial)
            notes.update(batch.notes)
            _check_failures(failures, max_failed, len(dataset))  # of this process: the others', later
            for variant, found in zip(variants, rows, strict=True):
                if len(batch.indices):
                    variant.prepare()
                    found.extend(_score_batch(model, batch, variant.scorers, accelerator, config.view_mean))
            if progress is not None:
                progress(min(len(dataset), world * (len(rows[0]) + len(failures))), len(dataset))
    finally:
        model.train(was_training)
    failures, partial = sorted(gather_object(failures)), sorted(gather_object(partial))
    chosen = dict(sum(gather_object([notes]), Counter()))
    _check_failures(failures, max_failed, len(dataset))
    return [
        _as_scores(gather_object(found), variant.scorers, failures, partial, chosen)
        for variant, found in zip(variants, rows, strict=True)
    ]


def _as_scores(
    rows: list[Row],
    scorers: Mapping[str, Scorer],
    failures: list[ReadError],
    partial: list[ReadError],
    notes: dict[str, int],
) -> Scores:
    rows = sorted(rows, key=lambda row: row[0])
    places = torch.tensor([place for place, _ in rows], dtype=torch.long)
    probabilities = {
        name: torch.stack([row[name] for _, row in rows]) if rows else torch.empty(0) for name in scorers
    }
    return Scores(places, probabilities, failures, partial, notes)


def _check_failures(failures: list[ReadError], max_failed: float, num_videos: int) -> None:
    if len(failures) > max_failed * num_videos:
        raise VactkError(
            f"{len(failures):,} of {num_videos:,} videos could not be read, more than --max-failed allows; "
            f"the last: {failures[-1].message}"
        )


def _score_batch(
    model: VideoModel,
    batch: Batch,
    scorers: Mapping[str, Scorer],
    accelerator: Accelerator,
    view_mean: str,
) -> list[Row]:
    video = batch.video.to(accelerator.device, non_blocking=True)  # (B, V, T, 3, H, W)
    with accelerator.autocast():
        features = model.video_clip.video_features(video.flatten(0, 1))
        logits = {name: scorer(features) for name, scorer in scorers.items()}
    means = {
        name: mean_over_views(values.float(), video.shape[1], view_mean).cpu()
        for name, values in logits.items()
    }
    return [(int(place), {name: means[name][i] for name in scorers}) for i, place in enumerate(batch.indices)]


def mean_over_views(logits: Tensor, num_views: int, view_mean: str) -> Tensor:
    """Class probabilities of videos from the logits of their views. (B*V, C) -> (B, C)

    "probabilities": the mean of the views' softmax (M2-CLIP); "logits": the softmax of their mean (Open-VCLIP).
    """
    if view_mean == "logits":
        return logits.unflatten(0, (-1, num_views)).mean(dim=1).softmax(dim=-1)
    return logits.softmax(dim=-1).unflatten(0, (-1, num_views)).mean(dim=1)
