"""The user's own videos: a folder per class, or a list of paths and labels."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vactk.data.annotations.classes import ClassIndex, match_key, read_classes
from vactk.data.annotations.entries import AnnotationEntry, Annotations, is_number, labels_of
from vactk.data.annotations.lists import LIST_SUFFIXES, read_list
from vactk.data.file_tree import FileTree
from vactk.data.match_files import match_entries
from vactk.data.recordings import choose_held_out, recordings
from vactk.data.records import VideoSet
from vactk.errors import VactkError

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "validate")
TEST_NAMES = ("test", "testing", *VAL_NAMES, "eval")
CLASS_TABLES = ("classes.txt", "classes.csv", "labels.txt", "labels.csv", "classInd.txt", "classes.json")
HELD_OUT = 5  # without a test split, one in this many videos of each class is kept for testing


@dataclass(frozen=True)
class CustomDataset:
    """A folder or a list that has been read. `load` takes the splits listed by `names`."""

    path: Path
    root: Path  # folder that paths are relative to
    annotations: Annotations

    @property
    def train(self) -> str:
        """The training split: the one so named, else four fifths of each class."""
        return next((name for name in self.splits if name.lower() in TRAIN_NAMES), "train")

    @property
    def test(self) -> str | None:
        """The test split: the one so named, else the fifth that `train` leaves."""
        named = next((n for test in TEST_NAMES for n in self.splits if n.lower() == test), None)
        return named or ("test" if self._share(held_out=True) else None)

    @property
    def validation(self) -> str | None:
        """The split that is named so, where there is one for testing too."""
        return next((n for n in self.splits if n.lower() in VAL_NAMES and n != self.test), None)

    @property
    def splits(self) -> dict[str, tuple[AnnotationEntry, ...]]:
        return self.annotations.splits

    def names(self) -> tuple[str, ...]:
        """Return the names of all splits, derived ones included."""
        derived = [name for name in (self.train, self.test, "all") if name]
        return tuple(dict.fromkeys([*self.splits, *derived]))

    def load(self, split: str, *, root: Path | None = None, strict: bool = True) -> VideoSet:
        """Load a split, looking for its files under `root`, by default beside the list. Raises VactkError."""
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
        if self.test in self.splits:
            raise VactkError(
                f"'{self.path}' has only '{self.test}' videos, none to train on: name some '{TRAIN_NAMES[0]}'"
            )
        return self._share(held_out=split == "test")

    def _share(self, *, held_out: bool) -> tuple[AnnotationEntry, ...]:
        """Return a fifth of each class, whole recordings in the order of their names' hashes, or all the others."""
        entries = self.annotations.entries
        labels = [match_key(entry.label or "") for entry in entries]
        groups = recordings([entry.video for entry in entries], labels)
        wanted = {label: max(1, count // HELD_OUT) for label, count in Counter(labels).items()}
        hashes = [hashlib.sha256(entry.video.encode()).hexdigest() for entry in entries]
        order = sorted(range(len(entries)), key=lambda index: hashes[index])
        chosen = choose_held_out(labels, groups, wanted, order)
        return tuple(entry for index, entry in enumerate(entries) if (index in chosen) == held_out)


def is_custom_dataset(name: str) -> bool:
    """Whether a dataset's name is a path: an existing one, one with a folder, or one with the suffix of a list."""
    path = Path(name)
    return path.exists() or len(path.parts) > 1 or path.suffix.lower() in LIST_SUFFIXES


def open_custom_dataset(path: Path) -> CustomDataset:
    """Open a folder with a folder per class, perhaps under train, val or test; or a list.

    Raises VactkError where it is neither, holds no videos, or has classes of the same name.
    """
    if path.is_dir():
        return CustomDataset(path, path, _with_a_test_part(_read_folder(path)))
    if not path.exists():
        raise VactkError(
            f"there is no folder or list '{path}': name one with a folder per class, or a list of paths and labels"
        )
    found = read_list(path)
    return CustomDataset(path, path.parent, _with_a_test_part(_with_classes(path, found)))


def _read_folder(root: Path) -> Annotations:
    tree = FileTree.scan(root, use_index=False)
    if not tree.videos:
        raise VactkError(f"there are no videos in '{root}'; expected a folder per class with its videos")
    split_names = (*TRAIN_NAMES, *TEST_NAMES)
    top = {PurePosixPath(video).parts[0] for video in tree.videos}
    has_splits = all((root / name).is_dir() and name.lower() in split_names for name in top)
    splits: dict[str, list[AnnotationEntry]] = {}
    for video in tree.videos:
        parts = PurePosixPath(video).parts
        split, folders = (parts[0], parts[1:-1]) if has_splits else ("all", parts[:-1])
        if not folders:
            raise VactkError(
                f"'{root / video}' is not in a class folder; expected {root}/CLASS/{parts[-1]}, or a list of "
                "paths and labels"
            )
        splits.setdefault(split, []).append(AnnotationEntry(video=video, label=folders[0]))
    classes = labels_of(entry for entries in splits.values() for entry in entries)
    base = [root / name for name in splits] if has_splits else [root]
    on_disk = {p.name for folder in base for p in folder.iterdir() if p.is_dir() and p.name[0] != "."}
    empty = sorted(on_disk - set(classes))
    return Annotations(
        classes=tuple(sorted(classes)),
        splits={name: tuple(entries) for name, entries in splits.items()},
        problems=tuple(f"'{root}' has a class without videos: '{name}'" for name in empty),
    )


def _with_a_test_part(found: Annotations) -> Annotations:
    """Return a lone training split as a list without splits, a part of which is then kept for testing."""
    if any(name.lower() not in TRAIN_NAMES for name in found.splits):
        return found
    return dataclasses.replace(found, splits={"all": found.entries})


def _with_classes(path: Path, found: Annotations) -> Annotations:
    """Name the classes of a list: as it does itself, or, for numbers, by a class table or the folders."""
    labels = labels_of(found.entries)
    if not labels:
        return found
    if not all(is_number(label) for label in labels):
        table = _class_table(path)
        return Annotations(classes=table or labels, splits=found.splits, problems=found.problems)
    classes = _class_table(path) or _classes_of_folders(found.entries)
    if classes is None:
        raise VactkError(
            f"'{path}' has numeric labels but no class names: list the names, one per line in the order of the "
            f"numbers, in '{path.parent / CLASS_TABLES[0]}' or '{path.stem}.classes.txt'"
        )
    if int(labels[-1]) >= len(classes):
        raise VactkError(
            f"'{path}' has label {labels[-1]}, but there are {len(classes)} class names, "
            f"for labels 0 to {len(classes) - 1}"
        )
    return Annotations(classes=classes, splits=found.splits, problems=found.problems)


def _class_table(path: Path) -> tuple[str, ...] | None:
    for name in (f"{path.stem}.classes.txt", f"{path.stem}.classes.csv", *CLASS_TABLES):
        table = path.parent / name
        if table.is_file() and table != path:
            return read_classes(table)
    return None


def _classes_of_folders(entries: tuple[AnnotationEntry, ...]) -> tuple[str, ...] | None:
    """Return the folders' names by label, if labels and folders correspond one to one."""
    names: dict[int, str] = {}
    for entry in entries:
        folders = PurePosixPath(entry.video.replace("\\", "/")).parts[:-1]
        if not folders or names.setdefault(int(entry.label or 0), folders[-1]) != folders[-1]:
            return None
    if sorted(names) != list(range(len(names))) or len(set(names.values())) < len(names):
        return None
    return tuple(names[number] for number in sorted(names))
