"""Measures a protocol: every video is read once, every draw scored on its own classes."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vactk.data.loading import DataConfig, Problem
from vactk.data.records import VideoSet
from vactk.errors import VactkError
from vactk.evaluate.embed import Progress, Scorer, Scores, class_embeddings, score_videos, similarity_scorer
from vactk.evaluate.metrics import topk_accuracy
from vactk.evaluate.plan import Draw, Plan
from vactk.evaluate.zeroshot import Unreadable, as_json, note_lines
from vactk.models.checkpoint import VideoModel


@dataclass(frozen=True)
class DrawResult:
    """Accuracies of one draw, percentages."""

    name: str
    num_classes: int
    num_videos: int  # that the accuracies are of
    num_unreadable: int
    top1: float
    top5: float


@dataclass(frozen=True)
class ProtocolResult:
    """What a model reaches by a protocol, and what exactly that was measured on."""

    plan: Plan
    unreadable: Unreadable
    draws: tuple[DrawResult, ...]
    failures: list[Problem]
    partial: list[Problem]
    notes: dict[str, int]  # what had to be chosen in sampling, and for how many videos

    def mean(self, metric: str) -> float:
        """Mean over the draws of "top1" or "top5"."""
        return statistics.fmean(getattr(draw, metric) for draw in self.draws)

    def sd(self, metric: str) -> float | None:
        """Sample standard deviation over the draws; None for a single one."""
        values = [getattr(draw, metric) for draw in self.draws]
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def harmonic_mean(self) -> float | None:
        """Of base and novel top-1, where the protocol has these."""
        values = {draw.name: draw.top1 for draw in self.draws}
        if values.keys() != {"base", "novel"}:
            return None
        return statistics.harmonic_mean(values.values())

    def to_json(self) -> dict[str, Any]:
        """The keys that scripts rely on, and the statement of what was run."""
        protocol, names = self.plan.protocol, ("top1", "top5")
        b2n = self.harmonic_mean
        return {
            "dataset": protocol.dataset,
            "protocol": protocol.name,
            "title": protocol.title,
            "source": protocol.source,
            "hash": self.plan.hash,
            "num_videos": len(self.plan.videos.records),
            "num_classes": max(draw.num_classes for draw in self.draws),
            **{name: self.mean(name) for name in names},
            **{f"{name}_sd": self.sd(name) for name in names if b2n is None and len(self.draws) > 1},
            **({"harmonic_mean": b2n} if b2n is not None else {}),
            "draws": [vars(draw) for draw in self.draws],
            "unreadable": self.unreadable,
            "notes": [*self.plan.notes, *note_lines(self.notes)],
            "missing": len(self.plan.videos.missing),
            "failed": as_json(self.failures),
            "partial": as_json(self.partial),
        }


def measure(
    model: VideoModel,
    plan: Plan,
    config: DataConfig,
    accelerator: Accelerator,
    *,
    templates: tuple[str, ...],
    batch_size: int,
    unreadable: Unreadable = "wrong",
    max_failed: float = 1.0,
    progress: Progress | None = None,
) -> ProtocolResult:
    """Top-1 and top-5 of each draw by similarity to the words of its classes.

    Videos that are missing or cannot be read count as wrong, or are left out with `unreadable="skip"`; when
    their share is above `max_failed` VactkError is raised.
    """
    check_missing(plan.videos, max_failed)
    embeddings = class_embeddings(model, plan.videos.words, templates, accelerator.device)  # (C, E)
    scorers: dict[str, Scorer] = {}
    for draw in plan.draws:
        own = embeddings[list(draw.classes)]
        scorers.setdefault(_scorer_name(draw), similarity_scorer(model, own))
    scores = score_videos(
        model,
        plan.videos,
        scorers,
        config,
        accelerator,
        batch_size=batch_size,
        max_failed=max_failed,
        progress=progress,
    )
    draws = tuple(_result(draw, plan, scores, unreadable) for draw in plan.draws)
    return ProtocolResult(plan, unreadable, draws, scores.failures, scores.partial, scores.notes)


def check_missing(videos: VideoSet, max_failed: float, setting: str = "--max-failed") -> None:
    """Raises VactkError when more than a share of the videos is not on disk."""
    if len(videos.missing) > max_failed * len(videos.records):
        raise VactkError(
            f"{len(videos.missing):,} of {len(videos.records):,} videos of {videos.name} are not on disk, "
            f"more than {setting} {max_failed:g}; `vactk data check` lists them"
        )


def _scorer_name(draw: Draw) -> str:
    return ",".join(map(str, draw.classes))


def _result(draw: Draw, plan: Plan, scores: Scores, unreadable: Unreadable) -> DrawResult:
    rows = {place: row for row, place in enumerate(scores.places.tolist())}
    read = [place for place in draw.places if place in rows]
    local = {number: place for place, number in enumerate(draw.classes)}
    labels = torch.tensor([local[_label(plan, place)] for place in read], dtype=torch.long)
    num_videos = len(draw.places) if unreadable == "wrong" else len(read)
    values = {"top1": 0.0, "top5": 0.0}
    if read:
        own: Tensor = scores.probabilities[_scorer_name(draw)][[rows[place] for place in read]]
        values = {f"top{k}": topk_accuracy(own, labels, k, num_videos=num_videos) for k in (1, 5)}
    return DrawResult(
        draw.name, len(draw.classes), num_videos, len(draw.places) - len(read), values["top1"], values["top5"]
    )


def _label(plan: Plan, place: int) -> int:
    label = plan.videos.records[place].label
    if label is None:
        raise VactkError(f"'{plan.videos.records[place].video}' has no label to measure with")
    return label
