"""What a dataset is: records of videos, and the classes that their labels count through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Record:
    """One video, or the part of it between two times, with what is known about it."""

    video: Path
    label: int | None = None  # index into the classes of its VideoSet
    start_s: float | None = None
    end_s: float | None = None
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VideoSet:
    """One split of a dataset."""

    name: str
    split: str
    classes: tuple[str, ...]  # the original label of each class: the key
    words: tuple[str, ...]  # the same classes as words that can be shown to CLIP
    records: tuple[Record, ...]
