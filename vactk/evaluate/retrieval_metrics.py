"""Retrieval metrics between texts and videos, as functions of similarities alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class RetrievalMetrics:
    """Recalls in percent of the queries, and ranks from 1."""

    recall: dict[int, float]  # by the number of results that are looked at
    median_rank: float
    mean_rank: float
    num_queries: int

    def to_json(self) -> dict[str, Any]:
        """Return the keys that scripts rely on."""
        recalls = {f"R@{k}": value for k, value in self.recall.items()}
        return {**recalls, "MdR": self.median_rank, "MnR": self.mean_rank, "queries": self.num_queries}


def recall_and_ranks(ranks: Tensor) -> RetrievalMetrics:
    """ranks (Q,) from 1 -> R@1, 5 and 10, median and mean rank. NaN where there are no queries.

    The median of an even number of ranks is the mean of the middle two.
    """
    values = ranks.double()
    if not len(values):
        return RetrievalMetrics(dict.fromkeys(RECALL_AT, float("nan")), float("nan"), float("nan"), 0)
    recall = {k: 100.0 * int((ranks <= k).sum()) / len(ranks) for k in RECALL_AT}
    return RetrievalMetrics(recall, float(values.quantile(0.5)), float(values.mean()), len(ranks))


def text_to_video_ranks(similarity: Tensor, owners: Tensor) -> Tensor:
    """Return the rank of each text's own video among all. similarity (N texts, V), owners (N,) int64 -> (N,) int64

    Ties count against the text: its video comes after all others that are as similar.
    """
    own = similarity.gather(1, owners[:, None])  # (N, 1)
    return (similarity >= own).sum(dim=1)


def video_to_text_ranks(similarity: Tensor, owners: Tensor) -> Tensor:
    """Return the rank of each video's best own text among all texts but its other own ones.

    similarity (N texts, V), owners (N,) int64 -> (V,) int64, 0 for a video without texts. With several
    captions a video, the best-placed counts (as MMT and Frozen in Time evaluate MSR-VTT); ties with texts of other
    videos count against it.
    """
    num_videos = similarity.shape[1]
    is_own = owners[:, None] == torch.arange(num_videos, device=owners.device)  # (N, V)
    best = similarity.masked_fill(~is_own, -torch.inf).amax(dim=0)  # (V,)
    others = ((similarity >= best) & ~is_own).sum(dim=0)
    return torch.where(is_own.any(dim=0), others + 1, 0)


def dual_softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Reweight logits by all queries, for text-to-video and for video-to-text (CAMoE, section 3.4).

    logits (N texts, V) -> each text's logits times its share among all texts of a video, and each video's
    times its share among all videos of a text. Both need every query at once, which a search lacks.
    """
    return logits * logits.softmax(dim=0), logits * logits.softmax(dim=1)


def retrieval_metrics(
    text_to_video: Tensor,
    video_to_text: Tensor,
    owners: Tensor,
    *,
    unread_texts: int = 0,
    unread_videos: int = 0,
) -> tuple[RetrievalMetrics, RetrievalMetrics]:
    """Return the metrics of both directions from similarities (N texts, V) for each, owners (N,) int64.

    `unread_texts` more texts, of videos that are not among the V, rank last, and so do `unread_videos` more videos:
    they count as wrong.
    """
    num_texts, num_videos = text_to_video.shape
    all_videos, all_texts = num_videos + unread_videos, num_texts + unread_texts
    t2v = text_to_video_ranks(text_to_video, owners)
    v2t = video_to_text_ranks(video_to_text, owners)
    v2t = v2t[v2t > 0]
    return (
        recall_and_ranks(torch.cat([t2v, t2v.new_full((unread_texts,), all_videos)])),
        recall_and_ranks(torch.cat([v2t, v2t.new_full((unread_videos,), all_texts)])),
    )
