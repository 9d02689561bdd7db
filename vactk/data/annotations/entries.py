"""What annotation files say of videos."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from vactk.video.container import is_video_name

MOST_DIGITS = 9  # of the number of a class


@dataclass(frozen=True, kw_only=True)
class AnnotationEntry:
    """One video as it is listed. Its file is looked for by name: folders and suffix may differ on disk."""

    video: str  # path, name or id as written
    label: str | None = None  # a class as written, or its number as text
    start_s: float | None = None  # the part of the file that is meant
    end_s: float | None = None
    captions: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()  # under which the file may lie too
    length_s: float | None = None  # how long it should be

    @property
    def key(self) -> str:
        """The same for a video whatever its folders and suffix: its name."""
        return bare_name(self.video)


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The content of one annotation file, or of a folder of them that belong together."""

    classes: tuple[str, ...] = ()  # in the order of their numbers; empty where the file names none
    splits: dict[str, tuple[AnnotationEntry, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()  # what contradicts itself, a line each

    @property
    def entries(self) -> tuple[AnnotationEntry, ...]:
        """The entries of all splits, in their order."""
        return tuple(entry for split in self.splits.values() for entry in split)


def bare_name(video: str) -> str:
    """A path as written, on whatever system, to its last part without a video's suffix."""
    name = PurePosixPath(video.replace("\\", "/")).name
    return name.rsplit(".", 1)[0] if is_video_name(name) else name


def labels_of(entries: Iterable[AnnotationEntry]) -> tuple[str, ...]:
    """The different labels of entries, sorted: numbers by value, names by letter."""
    labels = {entry.label for entry in entries if entry.label is not None}
    if all(is_number(label) for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def is_number(label: str) -> bool:
    """Whether a label is a class's number rather than its name."""
    return label.isascii() and label.isdigit() and len(label) <= MOST_DIGITS
