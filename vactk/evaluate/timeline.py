"""Turn the scores of a video's overlapping windows into segments: start, end, label.

1. A window's score for each label is its cosine similarity. A window shows "none of these" where no label fits
   better than all of some unrelated phrases, or than a fixed threshold: one more class of the softmax.
2. Each moment gets the mean probability of the windows that cover it.
3. The labels are the most probable sequence in which each change costs `CHANGE_COST` (Viterbi, IEEE Transactions
   on Information Theory 13, 1967), so that a short doubt changes nothing. With several labels at a time, each label
   has a sequence of its own: there, or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vactk.data.annotations.classes import known_classes
from vactk.data.video_dataset import ReadError
from vactk.data.windows import WindowConfig
from vactk.evaluate.results import errors_json

Span = tuple[float, float]  # seconds

CHANGE_COST = (
    2.0  # in nats times a quarter of a window; `python -m tests.benchmarks.timeline` compares values
)
FLOOR = 0.02  # smaller probabilities count as this: one window cannot decide by being very sure
NO_LEVEL = (
    "the labels share words with every phrase that they could be compared with, so that none of them is never the "
    "answer; --threshold sets a level"
)
NUM_PHRASES = 100  # unrelated phrases that a label must fit better than


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with one label."""

    start_s: float
    end_s: float
    label: str | None  # None: none of the labels
    probability: float  # mean over the segment, of the label against the others and none
    similarity: float  # mean cosine of the label; of the nearest label where there is none


@dataclass(frozen=True)
class VideoTimeline:
    """What a video shows when."""

    video: Path
    labels: tuple[str, ...]
    segments: tuple[Segment, ...]  # by start; one after another unless several labels count at a time
    edges_s: tuple[float, ...]  # of the K moments between which windows begin or end (K + 1)
    probabilities: Tensor  # (K, C) of each label

    @property
    def duration_s(self) -> float:
        """The end of the last window."""
        return self.edges_s[-1]

    def to_json(self) -> dict[str, Any]:
        """Return the keys that scripts rely on."""
        segments = [dict(vars(segment)) for segment in self.segments]
        return {"video": str(self.video), "duration_s": self.duration_s, "segments": segments}


@dataclass
class Timelines(Sequence[VideoTimeline]):
    """A timeline for every video that could be read, in the order given; the others are in `failures`."""

    windows: WindowConfig
    multi_label: bool
    threshold: float | None  # cosine similarity that labels had to exceed; None: that of unrelated phrases
    phrases: tuple[str, ...]  # the unrelated ones
    timelines: list[VideoTimeline] = field(default_factory=list)
    failures: list[ReadError] = field(default_factory=list)
    partial: list[ReadError] = field(default_factory=list)  # labelled as far as they could be read

    def to_json(self) -> dict[str, Any]:
        """Return the keys that scripts rely on."""
        no_level = self.threshold is None and not self.phrases
        return {
            "timelines": [timeline.to_json() for timeline in self.timelines],
            "window_s": self.windows.length_s,
            "stride_s": self.windows.step_s,
            "multi_label": self.multi_label,
            "threshold": self.threshold,
            "unrelated_phrases": len(self.phrases),
            "failed": errors_json(self.failures),
            "partial": errors_json(self.partial),
            "notes": [NO_LEVEL] if no_level else [],
        }

    def __len__(self) -> int:
        return len(self.timelines)

    def __getitem__(self, index: int) -> VideoTimeline:  # type: ignore[override]
        return self.timelines[index]


def unrelated_phrases(words: Sequence[str], count: int = NUM_PHRASES) -> tuple[str, ...]:
    """Return up to `count` of Kinetics-600's action names that share no word with any of the labels."""
    taken = {word for label in words for word in label.lower().split()}
    free = [name for name in known_classes("k600").values() if not taken & {*name.lower().split()}]
    return tuple(free[i * len(free) // count] for i in range(min(count, len(free)))) if free else ()


class WindowScores(NamedTuple):
    """How well the windows of a video fit labels."""

    spans: Sequence[Span]  # of the W windows
    cosines: Tensor  # (W, C)
    levels: Tensor  # (W,) cosine that a label must exceed
    scale: float  # what the model multiplies cosines with

    def probabilities(self, multi_label: bool) -> Tensor:
        """Return (W, 1, C + 1), of which the last is none; or (W, C, 2): each label there, or not."""
        logits = self.scale * torch.cat([self.cosines, self.levels[:, None]], dim=1)
        if not multi_label:
            return logits.softmax(dim=-1)[:, None]
        there = (logits[:, :-1] - logits[:, -1:]).sigmoid()
        return torch.stack([there, 1 - there], dim=-1)


def make_timeline(
    video: Path,
    labels: tuple[str, ...],
    scores: WindowScores,
    *,
    multi_label: bool = False,
    change_cost: float = CHANGE_COST,
) -> VideoTimeline:
    """Label the moments of a video. `multi_label`: any number of labels at a time."""
    edges_s, cover = moments(scores.spans)
    states = scores.probabilities(multi_label)
    probabilities = _mean_over(states.flatten(1), cover).reshape(-1, *states.shape[1:])  # (K, groups, states)
    cosines = _mean_over(scores.cosines, cover)
    nearest = np.column_stack([cosines, cosines.max(axis=1)])  # (K, C + 1), the last for none
    lengths = np.diff(edges_s)
    start_s, end_s = scores.spans[0]
    weighted = np.log(np.maximum(probabilities, FLOOR)) * (4 * lengths / (end_s - start_s))[:, None, None]
    found = []
    for group, path in enumerate(cheapest_paths(weighted, change_cost).T):
        for first, stop in _runs(path):
            state = path[first]
            if multi_label and state:
                continue
            number, own = group if multi_label else state, slice(first, stop)
            found.append(
                Segment(
                    start_s=float(edges_s[first]),
                    end_s=float(edges_s[stop]),
                    label=labels[number] if number < len(labels) else None,
                    probability=float(np.average(probabilities[own, group, state], weights=lengths[own])),
                    similarity=float(np.average(nearest[own, number], weights=lengths[own])),
                )
            )
    found.sort(key=lambda segment: (segment.start_s, segment.end_s))
    shown = probabilities[:, :, 0] if multi_label else probabilities[:, 0, :-1]
    return VideoTimeline(video, labels, tuple(found), tuple(edges_s.tolist()), torch.from_numpy(shown))


def moments(spans: Sequence[Span]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cut time wherever a window begins or ends -> edges (K + 1,), and (K, 2): the windows [first, stop) there.

    Windows begin and end in order. A stretch that no window covers belongs to the one before it.
    """
    starts_s, ends_s = (np.array(column) for column in zip(*spans, strict=True))
    edges_s = np.unique(np.round(np.concatenate([starts_s, ends_s]), 6))
    middles_s = (edges_s[:-1] + edges_s[1:]) / 2
    stop = np.searchsorted(starts_s, middles_s, side="right")
    first = np.minimum(np.searchsorted(ends_s, middles_s, side="right"), stop - 1)
    return edges_s, np.stack([first, stop], axis=1)


def cheapest_paths(scores: NDArray[np.float64], change_cost: float) -> NDArray[np.int64]:
    """Return the states with the highest sum of scores less the cost of changes. (K, G, S) -> (K, G)"""
    count, groups, states = scores.shape
    before = np.empty(scores.shape, dtype=np.int64)
    total, own = scores[0], np.arange(states)
    for k in range(1, count):
        best = total.argmax(axis=1)[:, None]
        changed = np.take_along_axis(total, best, axis=1) - change_cost
        stays = total >= changed
        before[k] = np.where(stays, own, best)
        total = np.where(stays, total, changed) + scores[k]
    paths = np.empty((count, groups), dtype=np.int64)
    paths[-1] = total.argmax(axis=1)
    for k in range(count - 1, 0, -1):
        paths[k - 1] = np.take_along_axis(before[k], paths[k][:, None], axis=1)[:, 0]
    return paths


def _mean_over(values: Tensor, cover: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average windows' values (W, N) over those that cover each moment -> (K, N)."""
    sums = np.concatenate([np.zeros((1, values.shape[1])), values.double().numpy().cumsum(axis=0)])
    return (sums[cover[:, 1]] - sums[cover[:, 0]]) / (cover[:, 1] - cover[:, 0])[:, None]


def _runs(path: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return (first, stop) of each stretch of equal states."""
    borders = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), len(path)]
    return list(pairwise(borders))
