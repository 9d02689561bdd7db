"""Results of evaluations: accuracies per split, and the statement of what they were measured on."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vactk.data.video_dataset import ReadError
from vactk.evaluate.protocol_splits import ProtocolData

Unreadable = Literal["wrong", "skip"]  # unreadable videos count as wrong, or are left out of the accuracy
ClassifierName = Literal["similarity", "class_head", "ensemble"]
METRICS = ("top1", "top5")


@dataclass(frozen=True)
class SplitResult:
    """Accuracies on one split, in percent."""

    name: str
    num_classes: int
    num_videos: int  # that the accuracies are taken over
    num_unreadable: int
    accuracy: dict[str, dict[str, float]]  # answer -> {"top1", "top5", "loss"}

    def to_json(self, by: str) -> dict[str, Any]:
        """Return the counts, and the accuracies of the answer `by`."""
        counts = {name: value for name, value in vars(self).items() if name != "accuracy"}
        return {**counts, **self.accuracy[by]}


@dataclass(frozen=True)
class EvalResult:
    """Zero-shot accuracies of a model by a protocol, or on a dataset's split."""

    data: ProtocolData
    unreadable: Unreadable
    splits: tuple[SplitResult, ...]
    failures: list[ReadError]
    partial: list[ReadError]  # read only in part
    notes: dict[str, int]  # choices made in sampling, and for how many videos

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers that there are for the classes of every split."""
        return tuple(by for by in self.splits[0].accuracy if all(by in s.accuracy for s in self.splits))

    @property
    def accuracy(self) -> dict[str, dict[str, float]]:
        """Mean accuracies over the splits: answer -> {"top1", "top5"}."""
        return {
            by: {metric: statistics.fmean(self._values(by, metric)) for metric in METRICS}
            for by in self.answers
        }

    def sd(self, metric: str, by: str = "similarity") -> float | None:
        """Return the sample standard deviation over the splits; None for a single one."""
        return statistics.stdev(self._values(by, metric)) if len(self.splits) > 1 else None

    def harmonic_mean(self, by: str = "similarity") -> float | None:
        """Return the harmonic mean of base and novel top-1, or None where the protocol has other splits."""
        values = {split.name: split.accuracy[by]["top1"] for split in self.splits}
        return statistics.harmonic_mean(values.values()) if values.keys() == {"base", "novel"} else None

    def to_json(self, by: str = "similarity") -> dict[str, Any]:
        """Return the keys that scripts rely on: top1 and top5 of the answer `by`, other answers by their names."""
        data, accuracy, harmonic_mean = self.data, self.accuracy, self.harmonic_mean(by)
        spread = {f"{metric}_sd": self.sd(metric, by) for metric in METRICS}
        unread = len(self.failures) if self.unreadable == "skip" else 0
        return {
            "dataset": data.videos.name,
            "protocol": data.protocol.name,
            "title": data.protocol.title,
            "source": data.protocol.source,
            "hash": data.hash,
            "num_videos": len(data.videos.records) - unread,
            "num_classes": max(split.num_classes for split in self.splits),
            **accuracy[by],
            **(spread if harmonic_mean is None and len(self.splits) > 1 else {}),
            **({} if harmonic_mean is None else {"harmonic_mean": harmonic_mean}),
            **{name: values for name, values in accuracy.items() if name != by},
            "draws": [split.to_json(by) for split in self.splits],
            "by": by,
            "unreadable": self.unreadable,
            "notes": [*data.notes, *note_lines(self.notes)],
            "missing": len(data.videos.missing),
            "failed": errors_json(self.failures),
            "partial": errors_json(self.partial),
        }

    def _values(self, by: str, metric: str) -> list[float]:
        return [split.accuracy[by][metric] for split in self.splits]


def note_lines(notes: Mapping[str, int]) -> list[str]:
    """Return a line for each choice made in sampling, with the number of videos."""
    return [f"{count:,} videos {note}" for note, count in sorted(notes.items())]


def errors_json(errors: Sequence[ReadError]) -> list[dict[str, str]]:
    """Return read errors as the commands list them."""
    return [{"video": error.video, "error": error.message} for error in errors]
