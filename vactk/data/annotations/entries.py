"""Entries of annotation files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from vactk.video.container import is_video_name

MAX_DIGITS = 9  # of a class number


@dataclass(frozen=True, kw_only=True)
class AnnotationEntry:
    """One video as listed. Its file is found by name: folders and suffix may differ on disk."""

    video: str  # path, name or id as written
    label: str | None = None  # a class as written, or its number as text
    start_s: float | None = None  # the segment of the file that is meant
    end_s: float | None = None
    captions: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()  # that the file may have instead
    length_s: float | None = None  # expected duration

    @property
    def key(self) -> str:
        """Return the video's name without folders and suffix."""
        return bare_name(self.video)


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The content of one annotation file, or of a folder of files that belong together."""

    classes: tuple[str, ...] = ()  # in the order of their numbers; empty where the file names none
    splits: dict[str, tuple[AnnotationEntry, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()  # contradictions, one message each

    @property
    def entries(self) -> tuple[AnnotationEntry, ...]:
        """Return the entries of all splits, in their order."""
        return tuple(entry for split in self.splits.values() for entry in split)


def bare_name(video: str) -> str:
    """Return the last component of a path, of any system, without a video's suffix."""
    name = PurePosixPath(video.replace("\\", "/")).name
    return name.rsplit(".", 1)[0] if is_video_name(name) else name


def labels_of(entries: Iterable[AnnotationEntry]) -> tuple[str, ...]:
    """Return the distinct labels of entries, sorted: numbers by value, names alphabetically."""
    labels = {entry.label for entry in entries if entry.label is not None}
    if all(is_number(label) for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def is_number(label: str) -> bool:
    """Whether a label is a class's number rather than its name."""
    return label.isascii() and label.isdigit() and len(label) <= MAX_DIGITS
