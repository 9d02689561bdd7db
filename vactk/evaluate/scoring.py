"""Run videos through a model and score them, over one process or many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vactk.data.config import ImageSpec
from vactk.data.records import VideoSet
from vactk.data.video_dataset import Batch, ReadError, VideoDataset, eval_loader, released_sampling
from vactk.distributed import Accelerator, gather_object
from vactk.errors import VactkError
from vactk.evaluate.classifier import Scorer
from vactk.evaluate.config import EvalConfig
from vactk.models.video_model import VideoModel
from vactk.progress import Progress

Row = tuple[int, dict[str, Tensor]]  # a record's index, what each scorer gives for it, and TIMES
TIMES = "times_s"  # of the frames read


@dataclass(frozen=True)
class Scores:
    """Scores of every video that could be read."""

    indices: Tensor  # (N,) int64, of the records, ascending
    probabilities: dict[str, Tensor]  # for each scorer (N, C), averaged over a video's views
    failures: list[ReadError]
    partial: list[ReadError]  # scored by the frames that could be read
    notes: dict[str, int]  # choices made in sampling, and for how many videos
    similarities: dict[str, Tensor]  # of the scorers whose values are no logits, (N, C)
    times_s: Tensor  # (N, temporal views * T) float64, of the frames read


def image_spec(model: VideoModel) -> ImageSpec:
    """Return the frame size and normalisation that the model's backbone expects."""
    backbone = model.backbone
    return ImageSpec(backbone.image_size, backbone.mean, backbone.std)


class Variant(NamedTuple):
    """One of several models scored on the same videos: a function that sets its weights, and its scorers."""

    prepare: Callable[[], None]
    scorers: Mapping[str, Scorer]
    similarities: Mapping[str, Scorer] = {}  # averaged over views as they are, without a softmax


def score_videos(
    model: VideoModel,
    videos: VideoSet,
    scorers: Mapping[str, Scorer],
    config: EvalConfig,
    accelerator: Accelerator,
    *,
    max_failed: float = 1.0,
    progress: Progress | None = None,
) -> Scores:
    """Score videos by the softmax of each view's logits, averaged over views (M2-CLIP's testing), in record order.

    The records are shared among all processes, and every process gets all scores. The model must already be on
    the accelerator's device; its mode is restored. Raises VactkError as soon as more than the share `max_failed`
    of the videos could not be read.
    """
    variants = [Variant(lambda: None, scorers)]
    (scores,) = score_variants(
        model, videos, variants, config, accelerator, max_failed=max_failed, progress=progress
    )
    return scores


@torch.no_grad()
def score_variants(
    model: VideoModel,
    videos: VideoSet,
    variants: Sequence[Variant],
    config: EvalConfig,
    accelerator: Accelerator,
    *,
    max_failed: float = 1.0,
    progress: Progress | None = None,
) -> list[Scores]:
    """Return the `score_videos` result of every variant of the model, reading each video once."""
    data = released_sampling(config.data, videos.name)
    dataset = VideoDataset(videos.records, data, image_spec(model), train=False)
    rank, world = accelerator.process_index, accelerator.num_processes
    rows: list[list[Row]] = [[] for _ in variants]
    log = _ReadLog(len(dataset), max_failed)
    was_training = model.video_clip.training
    model.train(False)
    try:
        for batch in eval_loader(dataset, config.batch_size, rank=rank, world=world):
            log.add(batch)
            for variant, found in zip(variants, rows, strict=True):
                if len(batch.indices):
                    variant.prepare()
                    found.extend(_score_batch(model, batch, variant, accelerator, data.view_mean))
            if progress is not None:
                progress(min(len(dataset), world * (len(rows[0]) + len(log.failures))), len(dataset))
    finally:
        model.train(was_training)
    log.gather()
    return [
        _scores(gather_object(found), variant, log) for variant, found in zip(variants, rows, strict=True)
    ]


class _ReadLog:
    """Log of videos that could not be read. Raises VactkError when too many fail."""

    def __init__(self, num_videos: int, max_failed: float) -> None:
        self.num_videos, self.max_failed = num_videos, max_failed
        self.failures: list[ReadError] = []
        self.partial: list[ReadError] = []
        self.notes: Counter[str] = Counter()

    def add(self, batch: Batch) -> None:
        """Add a batch of this process."""
        self.failures += batch.failures
        self.partial += batch.partial
        self.notes.update(batch.notes)
        self._check()

    def gather(self) -> None:
        """Add those of all other processes."""
        self.failures, self.partial = (
            sorted(gather_object(self.failures)),
            sorted(gather_object(self.partial)),
        )
        self.notes = sum(gather_object([self.notes]), Counter())
        self._check()

    def _check(self) -> None:
        if len(self.failures) > self.max_failed * self.num_videos:
            raise VactkError(
                f"{len(self.failures):,} of {self.num_videos:,} videos could not be read, more than --max-failed "
                f"allows; the last: {self.failures[-1].message}"
            )


def _scores(rows: list[Row], variant: Variant, log: _ReadLog) -> Scores:
    rows = sorted(rows, key=lambda row: row[0])
    return Scores(
        indices=torch.tensor([index for index, _ in rows], dtype=torch.long),
        probabilities=_stack(rows, variant.scorers),
        failures=log.failures,
        partial=log.partial,
        notes=dict(log.notes),
        similarities=_stack(rows, variant.similarities),
        times_s=_stack(rows, [TIMES])[TIMES],
    )


def _stack(rows: list[Row], names: Iterable[str]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for _, row in rows]) if rows else torch.empty(0) for name in names}


def _score_batch(
    model: VideoModel, batch: Batch, variant: Variant, accelerator: Accelerator, view_mean: str
) -> list[Row]:
    video = batch.video.to(accelerator.device, non_blocking=True)  # (B, V, T, 3, H, W)
    num_views = video.shape[1]
    with accelerator.autocast():
        features = model.video_clip.video_features(video.flatten(0, 1))
        logits = {name: scorer(features).float() for name, scorer in variant.scorers.items()}
        plain = {name: scorer(features).float() for name, scorer in variant.similarities.items()}
    means = {name: mean_over_views(values, num_views, view_mean).cpu() for name, values in logits.items()}
    for name, values in plain.items():
        means[name] = values.unflatten(0, (-1, num_views)).mean(dim=1).cpu()
    means[TIMES] = batch.times_s
    return [(int(index), {name: means[name][i] for name in means}) for i, index in enumerate(batch.indices)]


def mean_over_views(logits: Tensor, num_views: int, view_mean: str) -> Tensor:
    """Return class probabilities of videos from the logits of their views. (B*V, C) -> (B, C)

    "probabilities": the mean of the views' softmax (M2-CLIP); "logits": the softmax of their mean (Open-VCLIP).
    """
    if view_mean == "logits":
        return logits.unflatten(0, (-1, num_views)).mean(dim=1).softmax(dim=-1)
    return logits.softmax(dim=-1).unflatten(0, (-1, num_views)).mean(dim=1)
