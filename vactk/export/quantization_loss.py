"""Measure the accuracy that a file loses against its model, on the videos of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vactk.data.config import DataConfig, ImageSpec
from vactk.data.records import VideoSet
from vactk.data.video_dataset import VideoDataset, eval_loader
from vactk.errors import VactkError
from vactk.export.verify import Run
from vactk.models.video_model import VideoModel
from vactk.progress import Progress

BATCH = 8


@dataclass(frozen=True)
class AccuracyDrop:
    """Top-1 of a model and of a file, in percent, on the same videos; and how often they name the same class."""

    dataset: str
    split: str
    num_videos: int
    num_classes: int
    model: float
    file: float
    agreement: float

    def to_json(self) -> dict[str, Any]:
        """For a command's result."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "num_videos": self.num_videos,
            "num_classes": self.num_classes,
            "top1": {"float32": self.model, "int8": self.file, "loss": self.model - self.file},
            "agreement": self.agreement,
        }


def some_videos(videos: VideoSet, count: int) -> VideoSet:
    """`count` videos of a set, evenly spread over it; all of them for 0, or where there are fewer."""
    present = [index for index in range(len(videos.records)) if index not in videos.missing]
    count = min(count or len(present), len(present))
    chosen = [present[i * len(present) // count] for i in range(count)] if count else []
    return replace(videos, records=tuple(videos.records[i] for i in chosen), missing=frozenset(), report=None)


@torch.no_grad()
def int8_accuracy_drop(
    model: VideoModel,
    encoder: nn.Module,
    run: Run,
    videos: VideoSet,
    classes: Tensor,
    data: DataConfig,
    progress: Progress = lambda done, total: None,
) -> AccuracyDrop:
    """The accuracy of a file's video encoder against `encoder`'s, by similarity to classes (C, E) of unit norm.

    The mean over a video's views and crops is taken of their similarities. Raises VactkError when no video
    can be read.
    """
    answers: dict[str, list[int]] = {"model": [], "file": []}
    labels: list[int] = []
    image = ImageSpec(model.backbone.image_size, model.backbone.mean, model.backbone.std)
    for batch in eval_loader(VideoDataset(videos.records, data, image, train=False), BATCH):
        if not len(batch.indices):
            continue
        views = batch.video.flatten(0, 1)  # (B*V, T, 3, H, W)
        labels += batch.labels.tolist()
        for name, embed in (("model", encoder), ("file", run)):
            answers[name] += _answers(embed, views, batch.video.shape[1], classes)
        progress(len(labels), len(videos.records))
    if not labels:
        raise VactkError(f"no video of {videos.name}, {videos.split}, could be read to measure accuracy on")

    def share(one: Sequence[int], other: Sequence[int]) -> float:
        return 100 * sum(a == b for a, b in zip(one, other, strict=True)) / len(labels)

    return AccuracyDrop(
        videos.name,
        videos.split,
        len(labels),
        len(videos.classes),
        share(answers["model"], labels),
        share(answers["file"], labels),
        share(answers["model"], answers["file"]),
    )


def _answers(embed: Callable[[Tensor], Any], views: Tensor, num_views: int, classes: Tensor) -> list[int]:
    result = embed(views)
    embeddings = result if isinstance(result, Tensor) else result[0]
    similar = (embeddings.float() @ classes.T).unflatten(0, (-1, num_views)).mean(dim=1)  # (B, C)
    return similar.argmax(dim=-1).tolist()
