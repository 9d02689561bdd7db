"""What a dataset is: records of videos, and the classes that their labels count through."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vactk.errors import VactkError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class Record:
    """One video, or the part of it between two times, with what is known about it."""

    video: Path
    label: int | None = None  # index into the classes of its VideoSet
    start_s: float | None = None
    end_s: float | None = None
    captions: tuple[str, ...] = ()
    name: str = ""  # as its list calls it, without folders and suffix
    length_s: float | None = None  # how long its list says it is


@dataclass(frozen=True, kw_only=True)
class VideoSet:
    """One split of a dataset.

    Raises VactkError when classes cannot be told apart by their words, or a label is outside of them.
    """

    name: str
    split: str
    classes: tuple[str, ...]  # the original label of each class: the key
    words: tuple[str, ...]  # the same classes as words that can be shown to CLIP
    records: tuple[Record, ...]
    missing: frozenset[int] = frozenset()  # places of records whose file is not on disk
    report: ListingReport | None = None  # what did not fit when it was read

    def __post_init__(self) -> None:
        if len(self.words) != len(self.classes):
            raise VactkError(f"{self.name} has {len(self.classes)} classes and words for {len(self.words)}")
        seen: dict[str, str] = {}
        for label, words in zip(self.classes, self.words, strict=True):
            if not words.strip():
                raise VactkError(f"class '{label}' of {self.name} has no words that could be shown to CLIP")
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
        """The same without the records whose files are not on disk, or are excluded: to train on."""
        if not self.missing and not excluded:
            return self
        records = tuple(
            record
            for place, record in enumerate(self.records)
            if place not in self.missing and record.video not in excluded
        )
        return dataclasses.replace(self, records=records, missing=frozenset())


@dataclass(frozen=True, kw_only=True)
class ListingReport:
    """What is wrong with a list, or with the files that it names."""

    num_listed: int
    missing: tuple[str, ...] = ()  # videos that are not on disk, as written
    duplicated: tuple[str, ...] = ()  # listed more than once
    unknown_labels: tuple[str, ...] = ()  # a line each, with the nearest class
    empty_classes: tuple[str, ...] = ()  # classes without a video
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """A line for each kind of trouble, with the first case of it."""
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
        """The whole report."""
        return {
            "listed": self.num_listed,
            "missing": list(self.missing),
            "duplicated": list(self.duplicated),
            "unknown_labels": list(self.unknown_labels),
            "empty_classes": list(self.empty_classes),
            "notes": list(self.notes),
        }
