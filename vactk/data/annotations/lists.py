"""Lists of paths and labels: tables with named columns, and the headerless lists of the original projects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vactk.data.annotations.entries import AnnotationEntry, Annotations, is_number, labels_of
from vactk.errors import VactkError
from vactk.files.text import DELIMITERS, read_json, read_json_lines, read_lines, read_rows, wrong_line
from vactk.video.container import is_video_name

# Accepted names of each column, in the order of preference.
COLUMNS = {
    "video": ("path", "video", "video_path", "file", "filename", "file_path", "filepath", "video_id", "clip"),
    "label": ("label", "class", "action", "category", "label_name", "class_name"),
    "start_s": ("start_s", "start", "start_time", "time_start", "start time", "begin"),
    "end_s": ("end_s", "end", "end_time", "time_end", "end time", "stop"),
    "caption": ("caption", "captions", "text", "sentence", "description", "descriptions"),
    "split": ("split", "subset", "partition"),
}
LIST_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".lst", ".list"})


def read_list(path: Path) -> Annotations:
    """Read a list, whose form is recognised by its content. Raises VactkError where none fits."""
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _table(path, read_json_lines(path))
    if suffix == ".json":
        return _table(path, _json_rows(path))
    lines = [line for _, line in read_lines(path)]
    if not lines:
        raise VactkError(f"'{path}' is empty")
    delimiter = _header_delimiter(lines[0])
    if delimiter is not None:
        return _table(path, _named_rows(path, delimiter))
    return BARE_LISTS[_separator(lines, suffix)](path)


def read_comma_list(path: Path) -> Annotations:
    """Read Open-VCLIP's lists, without a header: `path,label`, or with a third column of other numbers."""
    return read_delimited_list(path, ",")


def read_delimited_list(path: Path, delimiter: str) -> Annotations:
    """Read a list without a header: a path, which may contain the delimiter, and a label."""
    entries = []
    for number, line in read_lines(path):
        video, found, label = line.rpartition(delimiter)
        if not found or not video:
            raise wrong_line(path, number, _expected(delimiter, line))
        further = re.fullmatch(rf"(.*){re.escape(delimiter)}(\d+)", video)
        if further and is_video_name(further[1]):
            video, label = further.groups()
        entries.append(AnnotationEntry(video=video.strip().strip('"'), label=label.strip().strip('"')))
    return _of(path, entries)


def read_blank_list(path: Path) -> Annotations:
    """Read ViFi-CLIP's and M2-CLIP's lists: `path label`, split at the last space, or paths alone."""
    entries = []
    for number, line in read_lines(path):
        video, blank, label = line.rpartition(" ")
        if is_video_name(line):
            video, label = line, ""
        elif not blank:
            raise wrong_line(path, number, _expected(" ", line))
        entries.append(AnnotationEntry(video=video.strip(), label=label or None))
    if len({entry.label is None for entry in entries}) > 1:
        video = next(entry.video for entry in entries if entry.label is None)
        raise VactkError(f"'{path}' has labels for some videos but not for '{video}'")
    return _of(path, entries)


def _of(path: Path, entries: list[AnnotationEntry]) -> Annotations:
    return Annotations(classes=(), splits={path.stem: tuple(entries)})


def _expected(delimiter: str, line: str) -> str:
    sign = {"\t": "tab", " ": "space"}.get(delimiter, f"'{delimiter}'")
    return (
        f"has no {sign} between path and label: '{line[:80]}'; add it, or name the columns in the first line, "
        "such as path,label,start,end"
    )


def _separator(lines: Sequence[str], suffix: str) -> str:
    """Guess the separator of a headerless list: what most lines show, else what all allow, by suffix."""
    shown = {separator: sum(_shows(line, separator) for line in lines) for separator in BARE_LISTS}
    best = max(shown, key=lambda separator: shown[separator])
    if shown[best]:
        return best
    promised = {".csv": ",", ".tsv": "\t"}.get(suffix, " ")
    possible = [separator for separator in BARE_LISTS if all(separator in line for line in lines)]
    return promised if promised in possible or not possible else possible[0]


def _shows(line: str, separator: str) -> bool:
    """Whether splitting at the separator leaves a video's name or a class number; a bare path shows a space."""
    if separator == " " and is_video_name(line):
        return True
    video, _, label = (cell.strip().strip('"') for cell in line.rpartition(separator))
    return bool(video) and (is_video_name(video) or is_number(label))


def _header_delimiter(line: str) -> str | None:
    """Return the delimiter that makes the line a header with a path column; spaces only for known names."""
    known = {name for columns in COLUMNS.values() for name in columns}
    for delimiter in (*DELIMITERS, " "):
        names = {cell.strip().strip('"').lower() for cell in line.split(delimiter)}
        if names & set(COLUMNS["video"]) and (delimiter != " " or names <= known):
            return delimiter
    return None


def _named_rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = read_rows(path, delimiter)
    header = [name.lower() for name in next(rows)[1]]
    for number, cells in rows:
        if len(cells) != len(header):
            raise wrong_line(
                path,
                number,
                f"has {len(cells)} cells, not {len(header)}; quote cells that hold '{delimiter}'",
            )
        yield number, dict(zip(header, cells, strict=True))


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = read_json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise VactkError(
            f'\'{path}\' is not a list of videos: it must hold [{{"video": ..., "label": ...}}, ...]'
        )
    yield from enumerate(rows, 1)


def _table(path: Path, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Annotations:
    splits: dict[str, list[AnnotationEntry]] = {}
    for number, row in rows:
        cells = {str(name).lower(): value for name, value in row.items() if value not in (None, "")}
        video = _cell(cells, "video")
        if video is None:
            raise wrong_line(path, number, f"names no video; one column must be named {COLUMNS['video'][0]}")
        label, captions = _cell(cells, "label"), _cell(cells, "caption") or []
        if not isinstance(captions, (str, list)):
            raise wrong_line(path, number, f"has a caption that is neither text nor a list: {captions}")
        if any(not str(text).strip() for text in ([captions] if isinstance(captions, str) else captions)):
            raise wrong_line(path, number, "has an empty caption")
        start_s, end_s = (_seconds(path, number, _cell(cells, name)) for name in ("start_s", "end_s"))
        if start_s is not None and end_s is not None and start_s >= end_s:
            raise wrong_line(path, number, f"ends at {end_s:g} s, before it starts at {start_s:g} s")
        entry = AnnotationEntry(
            video=str(video),
            label=None if label is None else str(label),
            start_s=start_s,
            end_s=end_s,
            captions=(captions,) if isinstance(captions, str) else tuple(str(text) for text in captions),
        )
        splits.setdefault(str(_cell(cells, "split") or path.stem), []).append(entry)
    splits = {name: _with_all_captions(entries) for name, entries in splits.items()}
    if not splits:
        raise VactkError(f"'{path}' lists no videos")
    labelled = {entry.label is not None for entries in splits.values() for entry in entries}
    if len(labelled) > 1:
        raise VactkError(f"'{path}' has labels for some videos but not for all")
    found = {name: tuple(entries) for name, entries in splits.items()}
    return Annotations(classes=labels_of(e for entries in found.values() for e in entries), splits=found)


def _with_all_captions(entries: list[AnnotationEntry]) -> list[AnnotationEntry]:
    """Join rows with captions that differ in nothing else: a row per caption."""
    joined: dict[object, AnnotationEntry] = {}
    for number, entry in enumerate(entries):
        same = (entry.video, entry.label, entry.start_s, entry.end_s) if entry.captions else number
        former = joined.get(same)
        captions = entry.captions if former is None else former.captions + entry.captions
        joined[same] = replace(entry, captions=captions)
    return list(joined.values())


def _cell(cells: Mapping[str, Any], column: str) -> Any:
    return next((cells[name] for name in COLUMNS[column] if name in cells), None)


def _seconds(path: Path, number: int, value: Any) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise wrong_line(path, number, f"has a time that is not seconds from 0: '{value}'")
    return seconds


# Readers by separator, in the order in which they are tried.
BARE_LISTS: dict[str, Callable[[Path], Annotations]] = {
    "\t": lambda path: read_delimited_list(path, "\t"),
    ",": read_comma_list,
    " ": read_blank_list,
}
