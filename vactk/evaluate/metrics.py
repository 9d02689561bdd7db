"""Accuracies as functions of scores and labels."""

from __future__ import annotations

from torch import Tensor


def topk_accuracy(scores: Tensor, labels: Tensor, k: int, *, num_videos: int | None = None) -> float:
    """Return the percentage of rows whose label is among the k highest scores; ties count against it.

    scores (N, C), labels (N,) int64. `num_videos` counts videos that have no scores as wrong.
    """
    total = len(labels) if num_videos is None else num_videos
    if total == 0:
        return float("nan")
    own = scores.gather(1, labels[:, None])  # (N, 1)
    better = (scores >= own).sum(dim=1) - 1  # others at least as high
    return 100.0 * int((better < k).sum()) / total
