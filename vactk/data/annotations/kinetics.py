"""Kinetics' official lists: a label and a segment of a YouTube video per row, as CSV or JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from vactk.data.annotations.entries import AnnotationEntry, Annotations, labels_of
from vactk.errors import VactkError
from vactk.files.text import read_json, read_rows, wrong_line

SPLIT_NAMES = {"validate": "val", "validation": "val", "training": "train", "testing": "test"}
COLUMNS = ("youtube_id", "time_start", "time_end")


def read_kinetics_csv(path: Path) -> Annotations:
    """Read one split or several; `label`, `split` and further columns are optional.

    Videos are named ID_000012_000022, as in the official copies, or else ID. Raises VactkError.
    """
    rows = read_rows(path, ",")
    try:
        header = [name.lower() for name in next(rows)[1]]
    except StopIteration:
        raise VactkError(f"'{path}' is empty") from None
    if not set(COLUMNS) <= set(header):
        raise VactkError(f"'{path}' is not a Kinetics list: its first line must name {', '.join(COLUMNS)}")
    listed = []
    for number, cells in rows:
        row = dict(zip(header, cells, strict=False))
        if len(cells) < len(header):
            raise wrong_line(path, number, f"has {len(cells)} cells, not {len(header)}")
        try:
            span = float(row["time_start"]), float(row["time_end"])
            entry = _entry(row["youtube_id"], row.get("label") or None, *span)
        except ValueError:
            raise wrong_line(path, number, "has times that are not numbers") from None
        listed.append((row.get("split", ""), entry))
    return _annotations(listed, path.stem)


def read_kinetics_json(path: Path) -> Annotations:
    """Read {ID: {"annotations": {"label", "segment"}, "subset"}}. Raises VactkError."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise VactkError(f"'{path}' is not a Kinetics list: it must hold an object")
    listed = []
    for video, item in content.items():
        try:
            annotation = item["annotations"]
            start_s, end_s = (float(time) for time in annotation["segment"])
            entry = _entry(video, annotation.get("label"), start_s, end_s)
            listed.append((str(item.get("subset", "")), entry))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise VactkError(f"'{path}': '{video}' has no annotations with a segment") from None
    return _annotations(listed, path.stem)


def _entry(video: str, label: str | None, start_s: float, end_s: float) -> AnnotationEntry:
    if not (math.isfinite(start_s) and math.isfinite(end_s) and (label is None or isinstance(label, str))):
        raise ValueError("a label must be text, and times numbers")
    name = f"{video}_{int(start_s):06d}_{int(end_s):06d}"
    return AnnotationEntry(video=name, label=label, other_names=(video,), length_s=end_s - start_s)


def _annotations(listed: Iterable[tuple[str, AnnotationEntry]], default: str) -> Annotations:
    splits: dict[str, list[AnnotationEntry]] = {}
    for name, entry in listed:
        splits.setdefault(SPLIT_NAMES.get(name.lower(), name.lower()) or default, []).append(entry)
    return Annotations(
        classes=labels_of(entry for entries in splits.values() for entry in entries),
        splits={name: tuple(entries) for name, entries in splits.items()},
    )
