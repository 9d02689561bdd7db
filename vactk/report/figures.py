"""The numbers of a report, computed from predictions.csv and metrics.jsonl alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from vactk.report.predictions import PredictedVideo, by_set, first_answers
from vactk.report.statistics import calibration, mean_of_shares, wilson

SHOWN_SPLITS = 3  # with all details; protocols with many draws have numbers of all in the table
SHOWN_VIDEOS = 24  # in the contact sheets of a page
SHOWN_CONFUSIONS = 20
Figures = dict[str, Any]


def set_figures(rows: Sequence[PredictedVideo]) -> Figures:
    """Return the accuracies of one split by one classifier, in %, with their intervals."""
    total = len(rows)
    error = calibration(*_certain(rows))[1] if any(row.top for row in rows) else None
    return {
        "split": rows[0].split,
        "by": rows[0].by,
        "num_videos": total,
        "num_unread": sum(not row.top for row in rows),
        "num_classes": rows[0].num_classes,
        "chance": 100 / rows[0].num_classes,
        "top1": wilson(sum(row.within(1) for row in rows), total)._asdict(),
        "top5": wilson(sum(row.within(5) for row in rows), total)._asdict(),
        "mean_class": mean_of_shares(list(class_counts(rows).values()))._asdict(),
        "calibration_error": error,
    }


def details(rows: Sequence[PredictedVideo]) -> Figures:
    """Return what is shown of one split beside its accuracies: classes, confusions, calibration."""
    counts = class_counts(rows)
    classes = [
        {"label": label, "num_videos": total, "right": right, "accuracy": wilson(right, total)._asdict()}
        for label, (right, total) in counts.items()
    ]
    bins = calibration(*_certain(rows))[0] if any(row.top for row in rows) else []
    return {
        "classes": classes,
        "confusions": [
            {"label": label, "answer": answer, "count": count, "share": 100 * count / counts[label][1]}
            for (label, answer), count in confusions(rows)
        ],
        "calibration": [one._asdict() for one in bins],
    }


def run_figures(rows: Sequence[PredictedVideo]) -> Figures:
    """Return the numbers of all splits and classifiers, and the details of the first splits."""
    shown = list(first_answers(rows).items())[:SHOWN_SPLITS]
    return {
        "sets": [set_figures(own) for own in by_set(rows).values()],
        "details": {split: details(own) for split, own in shown},
    }


def class_counts(rows: Sequence[PredictedVideo]) -> dict[str, tuple[int, int]]:
    """Return (right answers, videos) of each class that has videos, by its name."""
    total = Counter(row.label for row in rows)
    right = Counter(row.label for row in rows if row.within(1))
    return {label: (right[label], total[label]) for label in sorted(total)}


def confusions(rows: Sequence[PredictedVideo]) -> list[tuple[tuple[str, str], int]]:
    """Return the most frequent pairs of a label and another answer, with the number of videos."""
    pairs = Counter((row.label, row.answer) for row in rows if row.top and row.answer != row.label)
    return sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:SHOWN_CONFUSIONS]


def best_and_worst(
    rows: Sequence[PredictedVideo], count: int
) -> tuple[list[PredictedVideo], list[PredictedVideo]]:
    """Return up to `count` right answers and as many wrong ones, the most certain first, of different classes.

    A class has another video only once all others have had one.
    """
    certain = sorted(
        filter(_is_read, rows), key=lambda row: (-row.top[0].probability, row.video, row.start_s or 0)
    )
    right = [row for row in certain if row.within(1)]
    wrong = [row for row in certain if not row.within(1)]
    return _varied(right, count), _varied(wrong, count)


def _varied(rows: Sequence[PredictedVideo], count: int) -> list[PredictedVideo]:
    seen: Counter[str] = Counter()
    turns = []
    for place, row in enumerate(rows):
        turns.append((seen[row.label], place))
        seen[row.label] += 1
    return [rows[place] for _, place in sorted(sorted(turns)[:count], key=lambda turn: turn[1])]


def _certain(rows: Sequence[PredictedVideo]) -> tuple[list[float], list[bool]]:
    """Return the probability of each answer, and whether it is right; unreadable videos have none."""
    read = list(filter(_is_read, rows))
    return [row.top[0].probability for row in read], [row.within(1) for row in read]


def _is_read(row: PredictedVideo) -> bool:
    return bool(row.top)
