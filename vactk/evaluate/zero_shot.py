"""Evaluate zero-shot classification: by a protocol, of which a dataset's split is the simplest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vactk.data.records import VideoSet
from vactk.distributed import Accelerator
from vactk.errors import VactkError
from vactk.evaluate.classifier import Scorer, class_embeddings, class_scorers, cosine_scorer
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.metrics import topk_accuracy
from vactk.evaluate.protocol_splits import ProtocolData, ProtocolSplit
from vactk.evaluate.results import EvalResult, SplitResult, Unreadable
from vactk.evaluate.scoring import Scores, Variant, score_variants
from vactk.models.video_model import VideoModel
from vactk.progress import Progress


class Evaluated(NamedTuple):
    """The videos of an evaluation, their scores, and the scorers that gave them, by `scorer_key`."""

    data: ProtocolData
    scores: Scores
    scorers: Mapping[str, Scorer]


def evaluate_protocol(
    model: VideoModel,
    data: ProtocolData,
    config: EvalConfig,
    accelerator: Accelerator,
    *,
    unreadable: Unreadable = "wrong",
    max_failed: float = 1.0,
    progress: Progress | None = None,
) -> EvalResult:
    """Return top-1 and top-5 on every split, by similarity and, for classes it was trained on, by the class head.

    Every video is read once. Missing and unreadable videos count as wrong, or are left out with
    `unreadable="skip"`; VactkError is raised when their share exceeds `max_failed`.
    """
    found = score_protocol(model, data, config, accelerator, max_failed=max_failed, progress=progress)
    return summarize(data, found.scores, unreadable)


def score_protocol(
    model: VideoModel,
    data: ProtocolData,
    config: EvalConfig,
    accelerator: Accelerator,
    *,
    max_failed: float = 1.0,
    progress: Progress | None = None,
) -> Evaluated:
    """Return the scores that `summarize` takes, on every process; arguments as for `evaluate_protocol`."""
    check_missing(data.videos, max_failed)
    variant = split_variant(model, data, config, accelerator.device)
    (scores,) = score_variants(
        model, data.videos, [variant], config, accelerator, max_failed=max_failed, progress=progress
    )
    return Evaluated(data, scores, variant.scorers)


def split_variant(model: VideoModel, data: ProtocolData, config: EvalConfig, device: torch.device) -> Variant:
    """Return the scorers of all splits, and the cosines to all classes, for the weights that the model has now."""
    videos = data.videos
    embeddings = class_embeddings(model, videos.words, config.prompts, device)  # (C, E)
    scorers = {
        scorer_key(answer, classes): scorer
        for classes in dict.fromkeys(split.classes for split in data.splits)
        for answer, scorer in class_scorers(model, videos.classes, embeddings, classes).items()
    }
    return Variant(lambda: None, scorers, {"cosine": cosine_scorer(model, embeddings)})


def summarize(data: ProtocolData, scores: Scores, unreadable: Unreadable = "wrong") -> EvalResult:
    """Return the accuracies from the scores by `split_variant`."""
    splits = tuple(_split_result(data.videos, split, scores, unreadable) for split in data.splits)
    return EvalResult(data, unreadable, splits, scores.failures, scores.partial, scores.notes)


def check_missing(videos: VideoSet, max_failed: float, setting: str = "--max-failed") -> None:
    """Raise VactkError when more than the share `max_failed` of the videos is not on disk."""
    if len(videos.missing) > max_failed * len(videos.records):
        raise VactkError(
            f"{len(videos.missing):,} of {len(videos.records):,} videos of {videos.name} are not on disk, "
            f"more than {setting} {max_failed:g}; `vactk data check` lists them"
        )


def ensemble(probabilities: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the mean of the "similarity" and "class_head" answers, where there are both (M2-CLIP, section 3.4)."""
    if "class_head" not in probabilities:
        return probabilities
    return {**probabilities, "ensemble": (probabilities["similarity"] + probabilities["class_head"]) / 2}


def split_probabilities(scores: Scores, split: ProtocolSplit) -> dict[str, Tensor]:
    """Return each answer's probabilities of the split's classes, for all videos that were read: (N, C)."""
    own = {
        answer: scores.probabilities[key]
        for answer in ("similarity", "class_head")
        if (key := scorer_key(answer, split.classes)) in scores.probabilities
    }
    return ensemble(own)


def scorer_key(answer: str, classes: tuple[int, ...]) -> str:
    """Return the name of the scorer that gives an answer for a split's classes."""
    return f"{answer} {','.join(map(str, classes))}"


def _split_result(
    videos: VideoSet, split: ProtocolSplit, scores: Scores, unreadable: Unreadable
) -> SplitResult:
    rows = {index: row for row, index in enumerate(scores.indices.tolist())}
    read = [index for index in split.records if index in rows]
    numbers = {label: number for number, label in enumerate(split.classes)}
    labels = torch.tensor([numbers[_label(videos, index)] for index in read], dtype=torch.long)
    num_videos = len(split.records) if unreadable == "wrong" else len(read)
    accuracy = {
        answer: _measures(values[[rows[index] for index in read]] if read else values, labels, num_videos)
        for answer, values in split_probabilities(scores, split).items()
    }
    return SplitResult(split.name, len(split.classes), num_videos, len(split.records) - len(read), accuracy)


def _measures(probabilities: Tensor, labels: Tensor, num_videos: int) -> dict[str, float]:
    """Return top-1 and top-5, and the mean cross-entropy of the videos that could be read."""
    if not len(labels):
        return {"top1": 0.0, "top5": 0.0, "loss": 0.0}
    own = probabilities.gather(1, labels[:, None]).clamp(min=torch.finfo(probabilities.dtype).tiny)
    accuracy = {f"top{k}": topk_accuracy(probabilities, labels, k, num_videos=num_videos) for k in (1, 5)}
    return {**accuracy, "loss": float(-own.log().mean())}


def _label(videos: VideoSet, index: int) -> int:
    label = videos.records[index].label
    if label is None:
        raise VactkError(f"'{videos.records[index].video}' has no label to evaluate with")
    return label
