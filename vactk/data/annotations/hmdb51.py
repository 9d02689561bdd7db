"""HMDB51's official splits: a file per class and split, a line per video."""

from __future__ import annotations

import re
from pathlib import Path

from vactk.data.annotations.entries import AnnotationEntry, Annotations
from vactk.errors import VactkError
from vactk.files.text import read_lines, wrong_line

FILE_NAME = re.compile(r"(?P<label>.+)_test_split(?P<split>\d+)\.txt")
FLAGS = {"0": "unused", "1": "train", "2": "test"}


def read_hmdb51(folder: Path) -> Annotations:
    """Read `train1`, `test1`, `unused1` and so on for each split of the folder, and `all`.

    Classes are sorted by name, which is not the order of the files' names. Raises VactkError where there are no
    such files, or a line is not a name and a flag.
    """
    splits: dict[str, list[AnnotationEntry]] = {}
    files = _split_files(folder)
    classes = tuple(sorted({label for label, _ in files}))
    for label, number in sorted(files, key=lambda file: (int(file[1]), file[0])):
        for kind in FLAGS.values():
            splits.setdefault(f"{kind}{number}", [])
        path = files[label, number]
        for line_number, line in read_lines(path):
            name, _, flag = line.rpartition(" ")
            if not name.strip() or flag not in FLAGS:
                raise wrong_line(path, line_number, f"must be a file name and 0, 1 or 2, got '{line}'")
            splits[f"{FLAGS[flag]}{number}"].append(
                AnnotationEntry(video=f"{label}/{name.strip()}", label=label)
            )
    numbers = {number for _, number in files}
    missing = [f"{label} split {n}" for label in classes for n in sorted(numbers) if (label, n) not in files]
    everything = {entry.video: entry for entries in splits.values() for entry in entries}
    return Annotations(
        classes=classes,
        splits={
            **{name: tuple(entries) for name, entries in splits.items()},
            "all": tuple(sorted(everything.values(), key=lambda entry: entry.video)),
        },
        problems=tuple(f"no file for class {name}" for name in missing),
    )


def _split_files(folder: Path) -> dict[tuple[str, str], Path]:
    try:
        found = {path: FILE_NAME.fullmatch(path.name) for path in sorted(folder.iterdir())}
    except OSError as error:
        raise VactkError(f"cannot read '{folder}': {error.strerror}") from error
    files = {(match["label"], match["split"]): path for path, match in found.items() if match}
    if not files:
        raise VactkError(f"'{folder}' has no files such as brush_hair_test_split1.txt")
    return files
