"""A split of a dataset: video records, the classes of their labels, a report on its list."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vactk.errors import VactkError


@dataclass(frozen=True, kw_only=True)
class Record:
    """One video, or the segment between two times, with its label and captions."""

    video: Path
    label: int | None = None  # index into the classes of its VideoSet
    start_s: float | None = None
    end_s: float | None = None
    captions: tuple[str, ...] = ()
    name: str = ""  # as listed, without folders and suffix
    length_s: float | None = None  # as listed


@dataclass(frozen=True, kw_only=True)
class VideoSet:
    """One split of a dataset.

    Raises VactkError when two classes have the same words, or a label is out of range.
    """

    name: str
    split: str
    classes: tuple[str, ...]  # original labels, in the order of their numbers
    words: tuple[str, ...]  # the same classes as text for CLIP
    records: tuple[Record, ...]
    missing: frozenset[int] = frozenset()  # indices of records whose file is not on disk
    report: ListingReport | None = None  # None where there was no list to check

    def __post_init__(self) -> None:
        if len(self.words) != len(self.classes):
            raise VactkError(f"{self.name} has {len(self.classes)} classes and words for {len(self.words)}")
        seen: dict[str, str] = {}
        for label, words in zip(self.classes, self.words, strict=True):
            if not words.strip():
                raise VactkError(f"class '{label}' of {self.name} has no words for CLIP")
            if words in seen:
                raise VactkError(
                    f"classes '{seen[words]}' and '{label}' of {self.name} are the same in words: '{words}'"
                )
            seen[words] = label
        for record in self.records:
            if record.label is not None and not 0 <= record.label < len(self.classes):
                raise VactkError(
                    f"'{record.video}' has label {record.label}, but {self.name} has {len(self.classes)} classes"
                )

    def present(self, excluded: Collection[Path] = ()) -> VideoSet:
        """Return the set without records whose files are missing or excluded."""
        if not self.missing and not excluded:
            return self
        records = tuple(
            record
            for index, record in enumerate(self.records)
            if index not in self.missing and record.video not in excluded
        )
        return dataclasses.replace(self, records=records, missing=frozenset())

    def without_labels(self) -> VideoSet:
        """Return the same videos without classes."""
        records = tuple(dataclasses.replace(record, label=None) for record in self.records)
        return dataclasses.replace(self, classes=(), words=(), records=records)


@dataclass(frozen=True, kw_only=True)
class ListingReport:
    """Problems of a list of videos, and of the files that it names."""

    num_listed: int
    missing: tuple[str, ...] = ()  # videos not on disk, as listed
    duplicated: tuple[str, ...] = ()  # listed more than once
    unknown_labels: tuple[str, ...] = ()  # one message per label, with the nearest class
    empty_classes: tuple[str, ...] = ()  # classes without a video
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return one line per kind of problem, with an example."""
        kinds = {
            "of {n} listed videos are not on disk": self.missing,
            "of {n} videos are listed more than once": self.duplicated,
            "classes have no video": self.empty_classes,
        }
        found = [
            f"{len(cases):,} {kind.format(n=f'{self.num_listed:,}')}, such as '{cases[0]}'"
            for kind, cases in kinds.items()
            if cases
        ]
        return [*found, *self.unknown_labels, *self.notes]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "listed": self.num_listed,
            "missing": list(self.missing),
            "duplicated": list(self.duplicated),
            "unknown_labels": list(self.unknown_labels),
            "empty_classes": list(self.empty_classes),
            "notes": list(self.notes),
        }
