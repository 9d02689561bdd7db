"""Classification of videos by the words of their classes."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vactk.data.config import DataConfig
from vactk.data.records import VideoSet
from vactk.data.video_dataset import ReadError
from vactk.distributed import Accelerator
from vactk.errors import VactkError
from vactk.evaluate.classifier import Scorer, class_embeddings, similarity_scorer
from vactk.evaluate.metrics import topk_accuracy
from vactk.evaluate.protocol_splits import ProtocolData, ProtocolSplit, content_hash
from vactk.evaluate.scoring import Scores, score_videos
from vactk.models.video_model import VideoModel
from vactk.progress import Progress

Unreadable = Literal["wrong", "skip"]  # videos that cannot be read count as wrong, or are left out and told


@dataclass(frozen=True)
class Evaluation:
    """How well a model names the videos of one split. Accuracies are percentages of all videos."""

    dataset: str
    split: str
    hash: str  # of the classes and videos
    num_videos: int
    num_classes: int
    accuracy: dict[str, dict[str, float]]  # "similarity", "class_head" or "ensemble" -> {"top1", "top5"}
    failures: list[ReadError]  # counted as wrong
    partial: list[ReadError]  # read as far as they go
    notes: dict[str, int]  # what had to be chosen in sampling, and for how many videos

    def to_json(self, by: str = "similarity") -> dict[str, Any]:
        """The keys that scripts rely on; top1 and top5 as `by` answers, the other answers under their names."""
        return {
            "dataset": self.dataset,
            "protocol": f"{self.dataset}/{self.split}",
            "hash": self.hash,
            "num_videos": self.num_videos,
            "num_classes": self.num_classes,
            **self.accuracy[by],
            **{name: found for name, found in self.accuracy.items() if name != by},
            "failed": as_json(self.failures),
            "partial": as_json(self.partial),
            "notes": note_lines(self.notes),
        }


def score_classes(
    model: VideoModel,
    videos: VideoSet,
    config: DataConfig,
    accelerator: Accelerator,
    *,
    templates: tuple[str, ...],
    batch_size: int,
    max_failed: float = 1.0,
    progress: Progress | None = None,
) -> Scores:
    """The classes' probabilities by "similarity" to their words.

    Where the class head knows these classes, by the "class_head" too, and by their "ensemble": the mean of
    both (M2-CLIP, section 3.4).
    """
    scorers = class_scorers(model, videos, templates, accelerator.device)
    scores = score_videos(
        model,
        videos,
        scorers,
        config,
        accelerator,
        batch_size=batch_size,
        max_failed=max_failed,
        progress=progress,
    )
    if "class_head" not in scorers:
        return scores
    both = (scores.probabilities["similarity"] + scores.probabilities["class_head"]) / 2
    return dataclasses.replace(scores, probabilities={**scores.probabilities, "ensemble": both})


def class_scorers(
    model: VideoModel, videos: VideoSet, templates: tuple[str, ...], device: torch.device
) -> dict[str, Scorer]:
    """The scorers of `score_classes`, for the weights that the model has now."""
    embeddings = class_embeddings(model, videos.words, templates, device)
    scorers: dict[str, Scorer] = {"similarity": similarity_scorer(model, embeddings)}
    head = model.class_head
    if head is not None and model.heads.knows(videos.classes):
        scorers["class_head"] = lambda features: head(features.pooled)
    return scorers


def evaluate(videos: VideoSet, scores: Scores, *, unreadable: Unreadable = "wrong") -> Evaluation:
    """Top-1 and top-5 of `score_classes`' result. Videos that could not be read count as wrong, or are skipped."""
    num_videos = len(videos.records) if unreadable == "wrong" else len(scores.places)
    labels = torch.tensor([videos.records[place].label for place in scores.places.tolist()], dtype=torch.long)
    return Evaluation(
        dataset=videos.name,
        split=videos.split,
        hash=content_hash(videos),
        num_videos=num_videos,
        num_classes=len(videos.classes),
        accuracy={
            name: _accuracies(probabilities, labels, num_videos)
            for name, probabilities in scores.probabilities.items()
        },
        failures=scores.failures,
        partial=scores.partial,
        notes=scores.notes,
    )


def note_lines(notes: Mapping[str, int]) -> list[str]:
    """What had to be chosen for how many videos, a line for each choice."""
    return [f"{count:,} videos {note}" for note, count in sorted(notes.items())]


def as_json(problems: list[ReadError]) -> list[dict[str, str]]:
    """Videos and what is wrong with them, as the commands list them."""
    return [{"video": problem.video, "error": problem.message} for problem in problems]


def _accuracies(probabilities: Tensor, labels: Tensor, num_videos: int) -> dict[str, float]:
    if not len(labels):
        return {"top1": 0.0, "top5": 0.0}
    return {f"top{k}": topk_accuracy(probabilities, labels, k, num_videos=num_videos) for k in (1, 5)}


@dataclass(frozen=True)
class SplitResult:
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

    plan: ProtocolData
    unreadable: Unreadable
    draws: tuple[SplitResult, ...]
    failures: list[ReadError]
    partial: list[ReadError]
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


def evaluate_protocol(
    model: VideoModel,
    plan: ProtocolData,
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


def _scorer_name(draw: ProtocolSplit) -> str:
    return ",".join(map(str, draw.classes))


def _result(draw: ProtocolSplit, plan: ProtocolData, scores: Scores, unreadable: Unreadable) -> SplitResult:
    rows = {place: row for row, place in enumerate(scores.places.tolist())}
    read = [place for place in draw.places if place in rows]
    local = {number: place for place, number in enumerate(draw.classes)}
    labels = torch.tensor([local[_label(plan, place)] for place in read], dtype=torch.long)
    num_videos = len(draw.places) if unreadable == "wrong" else len(read)
    values = {"top1": 0.0, "top5": 0.0}
    if read:
        own: Tensor = scores.probabilities[_scorer_name(draw)][[rows[place] for place in read]]
        values = {f"top{k}": topk_accuracy(own, labels, k, num_videos=num_videos) for k in (1, 5)}
    return SplitResult(
        draw.name, len(draw.classes), num_videos, len(draw.places) - len(read), values["top1"], values["top5"]
    )


def _label(plan: ProtocolData, place: int) -> int:
    label = plan.videos.records[place].label
    if label is None:
        raise VactkError(f"'{plan.videos.records[place].video}' has no label to measure with")
    return label
