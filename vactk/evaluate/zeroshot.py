"""Classification of videos by the words of their classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from vactk.data.loading import DataConfig, Problem
from vactk.data.records import VideoSet
from vactk.evaluate.embed import (
    Progress,
    Scorer,
    Scores,
    class_embeddings,
    score_videos,
    similarity_scorer,
)
from vactk.evaluate.metrics import topk_accuracy
from vactk.evaluate.plan import content_hash
from vactk.models.checkpoint import VideoModel

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
    failures: list[Problem]  # counted as wrong
    partial: list[Problem]  # read as far as they go
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


def as_json(problems: list[Problem]) -> list[dict[str, str]]:
    """Videos and what is wrong with them, as the commands list them."""
    return [{"video": problem.video, "error": problem.message} for problem in problems]


def _accuracies(probabilities: Tensor, labels: Tensor, num_videos: int) -> dict[str, float]:
    if not len(labels):
        return {"top1": 0.0, "top5": 0.0}
    return {f"top{k}": topk_accuracy(probabilities, labels, k, num_videos=num_videos) for k in (1, 5)}
