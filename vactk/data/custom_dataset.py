"""Videos of the user's own: a folder for each class, or a list of paths and labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vactk.data.annotations.classes import ClassIndex, match_key, read_classes
from vactk.data.annotations.entries import AnnotationEntry, Annotations, is_number, labels_of
from vactk.data.annotations.lists import LIST_SUFFIXES, read_list
from vactk.data.file_tree import FileTree
from vactk.data.match_files import match_entries
from vactk.data.records import VideoSet
from vactk.errors import VactkError

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "validate", "eval")
CLASS_TABLES = ("classes.txt", "classes.csv", "labels.txt", "labels.csv", "classInd.txt", "classes.json")
HELD_OUT = 5  # of every so many videos of a class, one is held out where nothing says what to test on


@dataclass(frozen=True)
class UserData:
    """A folder or a list, read. `splits` may be called by the names in `train` and `test`, and `all`."""

    path: Path
    root: Path  # which the paths are relative to
    annotations: Annotations

    @property
    def train(self) -> str:
        """The split to train on: the one so called, else four fifths of each class."""
        return next((name for name in self.splits if name.lower() in TRAIN_NAMES), "train")

    @property
    def test(self) -> str | None:
        """The split to test on: the one so called, else the fifth that `train` leaves."""
        named = next((n for test in TEST_NAMES for n in self.splits if n.lower() == test), None)
        if named or any(name.lower() in TRAIN_NAMES for name in self.splits):
            return named
        return "test" if self._share(held_out=True) else None

    @property
    def splits(self) -> dict[str, tuple[AnnotationEntry, ...]]:
        return self.annotations.splits

    def names(self) -> tuple[str, ...]:
        """Every split that `load` takes."""
        derived = [name for name in (self.train, self.test, "all") if name]
        return tuple(dict.fromkeys([*self.splits, *derived]))

    def load(self, split: str, *, root: Path | None = None, strict: bool = True) -> VideoSet:
        """A split, with its files looked for under `root`, by default beside the list."""
        classes = ClassIndex(self.annotations.classes, self.path)
        tree = FileTree.scan(root or self.root)
        return match_entries(
            self._entries(split),
            classes,
            tree,
            name=self.path.name,
            split=split,
            notes=self.annotations.problems,
            strict=strict,
        )

    def _entries(self, split: str) -> tuple[AnnotationEntry, ...]:
        if split in self.splits:
            return self.splits[split]
        if split == "all":
            return self.annotations.entries
        return self._share(held_out=split == "test")

    def _share(self, *, held_out: bool) -> tuple[AnnotationEntry, ...]:
        """Of each class every fifth video, in an order that the videos' names fix; or the others."""
        by_class: dict[str, list[AnnotationEntry]] = {}
        for entry in self.annotations.entries:
            by_class.setdefault(match_key(entry.label or ""), []).append(entry)
        chosen = set()
        for entries in by_class.values():
            mixed = sorted(entries, key=lambda e: hashlib.sha256(e.video.encode()).hexdigest())
            chosen |= set(mixed[HELD_OUT - 1 :: HELD_OUT] if len(mixed) >= HELD_OUT else mixed[1:][:1])
        return tuple(entry for entry in self.annotations.entries if (entry in chosen) == held_out)


def is_user_data(name: str) -> bool:
    """Whether a dataset's name is a path: a folder or a file that is there, or what can be nothing else."""
    path = Path(name)
    return path.exists() or len(path.parts) > 1 or path.suffix.lower() in LIST_SUFFIXES


def open_user_data(path: Path) -> UserData:
    """A folder with a folder for each class, also under train, val or test; or a list.

    Raises VactkError where it is neither, holds no videos, or its classes cannot be told apart.
    """
    if path.is_dir():
        return UserData(path, path, _read_folder(path))
    if not path.exists():
        raise VactkError(f"there is no folder or list '{path}'")
    found = read_list(path)
    return UserData(path, path.parent, _with_classes(path, found))


def _read_folder(root: Path) -> Annotations:
    tree = FileTree.scan(root, use_index=False)
    if not tree.videos:
        raise VactkError(
            f"there are no videos in '{root}'; expected a folder for each class, with its videos"
        )
    split_names = (*TRAIN_NAMES, *TEST_NAMES)
    top = {PurePosixPath(video).parts[0] for video in tree.videos}
    has_splits = all((root / name).is_dir() and name.lower() in split_names for name in top)
    splits: dict[str, list[AnnotationEntry]] = {}
    for video in tree.videos:
        parts = PurePosixPath(video).parts
        split, folders = (parts[0], parts[1:-1]) if has_splits else ("all", parts[:-1])
        if not folders:
            raise VactkError(
                f"'{root / video}' is in no class's folder; expected {root}/CLASS/{parts[-1]}, or a list of "
                "paths and labels"
            )
        splits.setdefault(split, []).append(AnnotationEntry(video=video, label=folders[0]))
    classes = labels_of(entry for entries in splits.values() for entry in entries)
    base = [root / name for name in splits] if has_splits else [root]
    folders_there = {p.name for place in base for p in place.iterdir() if p.is_dir() and p.name[0] != "."}
    empty = sorted(folders_there - set(classes))
    return Annotations(
        classes=tuple(sorted(classes)),
        splits={name: tuple(entries) for name, entries in splits.items()},
        problems=tuple(f"'{root}' has a class without videos: '{name}'" for name in empty),
    )


def _with_classes(path: Path, found: Annotations) -> Annotations:
    """The classes of a list: those it names, or, for numbers, those of a class table or of the folders."""
    labels = labels_of(found.entries)
    if not labels:
        return found
    if not all(is_number(label) for label in labels):
        table = _class_table(path)
        return Annotations(classes=table or labels, splits=found.splits, problems=found.problems)
    classes = _class_table(path) or _classes_of_folders(found.entries)
    if classes is None:
        raise VactkError(
            f"'{path}' has numbers for labels, and nothing names the classes: put the names, a line each in the "
            f"order of the numbers, into '{path.parent / CLASS_TABLES[0]}', or into '{path.stem}.classes.txt'"
        )
    if int(labels[-1]) >= len(classes):
        raise VactkError(
            f"'{path}' has label {labels[-1]}, but only {len(classes)} classes are named, "
            f"from 0 to {len(classes) - 1}"
        )
    return Annotations(classes=classes, splits=found.splits, problems=found.problems)


def _class_table(path: Path) -> tuple[str, ...] | None:
    for name in (f"{path.stem}.classes.txt", f"{path.stem}.classes.csv", *CLASS_TABLES):
        table = path.parent / name
        if table.is_file() and table != path:
            return read_classes(table)
    return None


def _classes_of_folders(entries: tuple[AnnotationEntry, ...]) -> tuple[str, ...] | None:
    """Names by number where all videos of a number lie in one folder, and of each folder in one number."""
    names: dict[int, str] = {}
    for entry in entries:
        folders = PurePosixPath(entry.video.replace("\\", "/")).parts[:-1]
        if not folders or names.setdefault(int(entry.label or 0), folders[-1]) != folders[-1]:
            return None
    if sorted(names) != list(range(len(names))) or len(set(names.values())) < len(names):
        return None
    return tuple(names[number] for number in sorted(names))
