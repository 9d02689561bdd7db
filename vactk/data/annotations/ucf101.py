"""UCF101's official splits: a class table, and train and test lists."""

from __future__ import annotations

import re
from pathlib import Path

from vactk.data.annotations.classes import match_key
from vactk.data.annotations.entries import AnnotationEntry, Annotations
from vactk.errors import VactkError
from vactk.files.text import read_lines, wrong_line

LIST_NAME = re.compile(r"(?P<kind>train|test)list(?P<split>\d+)\.txt", re.IGNORECASE)
VIDEO_NAME = re.compile(r"v_(?P<label>.+)_g\d+_c\d+", re.IGNORECASE)


def read_ucf101(folder: Path) -> Annotations:
    """Read `train1`, `test1` and so on, and `all`, the videos of all lists.

    A video's class is its folder, in any case ("HandStandPushups"); test lists have no labels. Raises VactkError
    where a list has a class missing from classInd.txt.
    """
    by_number = read_class_index(folder / "classInd.txt")
    classes = tuple(by_number.values())
    splits: dict[str, tuple[AnnotationEntry, ...]] = {}
    problems: list[str] = []
    for path in sorted(folder.iterdir()):
        match = LIST_NAME.fullmatch(path.name)
        if match:
            entries = _read_list(path, by_number, problems)
            splits[f"{match['kind'].lower()}{int(match['split'])}"] = entries
    if not splits:
        raise VactkError(f"'{folder}' has no lists such as trainlist01.txt")
    everything = {entry.video: entry for entries in splits.values() for entry in entries}
    splits["all"] = tuple(sorted(everything.values(), key=lambda entry: entry.video))
    return Annotations(classes=classes, splits=splits, problems=tuple(problems))


def read_class_index(path: Path) -> dict[str, str]:
    """Read classInd.txt as {number as written: class}."""
    classes: dict[str, str] = {}
    for line_number, line in read_lines(path):
        number, _, name = line.partition(" ")
        if not number.isdigit() or not name.strip():
            raise wrong_line(path, line_number, f"must be a number and a class, got '{line}'")
        classes[number] = name.strip()
    return classes


def _read_list(path: Path, by_number: dict[str, str], problems: list[str]) -> tuple[AnnotationEntry, ...]:
    known = {match_key(label): label for label in by_number.values()}
    entries = []
    for line_number, line in read_lines(path):
        video, _, number = line.rpartition(" ")
        if not number.isdigit():  # a test list
            video, number = line, ""
        label = known.get(match_key(_class_name(video)))
        if label is None:
            raise wrong_line(path, line_number, f"has a class missing from classInd.txt: '{video}'")
        if number and by_number.get(number) != label:
            other = by_number.get(number, "no class")
            problems.append(f"{path.name} line {line_number}: {video} has number {number}, {other}")
        entries.append(AnnotationEntry(video=video, label=label))
    return tuple(entries)


def _class_name(video: str) -> str:
    """Return the folder of a path, or the class in the file's name where there is none."""
    folder, _, name = video.rpartition("/")
    match = VIDEO_NAME.match(name)
    return folder.rpartition("/")[2] or (match["label"] if match else name)
