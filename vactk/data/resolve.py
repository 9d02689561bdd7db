"""Entries of an annotation file as records of files, with a report of what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vactk.data.annotations.entries import Entry
from vactk.data.classes import ClassIndex, words_of
from vactk.data.records import Record, VideoSet
from vactk.data.tree import Tree, VideoFinder
from vactk.errors import VactkError


@dataclass(frozen=True, kw_only=True)
class Report:
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


def resolve(
    entries: Sequence[Entry],
    classes: ClassIndex,
    tree: Tree,
    *,
    name: str,
    split: str,
    words: dict[str, str] | None = None,
    notes: Sequence[str] = (),
    must_exist: bool = True,
) -> VideoSet:
    """The records of a split, in the order of the list, each video once.

    Videos that are not on disk keep their record, so that an evaluation counts them; `VideoSet.present` is
    without them. Raises VactkError where a label is no class, where one video has two classes, or, with
    `must_exist`, where no listed video is there.
    """
    finder = VideoFinder(tree, entries)
    unknown = {e.label for e in entries if e.label is not None and classes.find(e.label) is None}
    if unknown:
        lines = classes.describe_unknown(unknown)
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise VactkError(f"the list of {name}, {split}: {lines[0]}{more}")
    records: dict[tuple[Any, ...], Record] = {}
    missing, duplicated = [], []
    for entry in entries:
        path = finder.find(entry)
        if path is None:
            path = tree.root / entry.video
            missing.append(entry.video)
        key = (path, entry.start_s, entry.end_s)
        label = None if entry.label is None else classes.find(entry.label)
        if key in records:
            duplicated.append(entry.video)
            _check_same(records[key], label, entry, classes)
            continue
        records[key] = Record(
            video=path,
            label=label,
            start_s=entry.start_s,
            end_s=entry.end_s,
            captions=entry.captions,
            name=entry.key,
            length_s=entry.length_s,
        )
    if missing and tree.from_index:  # files may have come since it was written
        fresh = Tree.scan(tree.root, use_index=False)
        return resolve(
            entries,
            classes,
            fresh,
            name=name,
            split=split,
            words=words,
            notes=notes,
            must_exist=must_exist,
        )
    if must_exist and len(missing) == len(entries):
        raise VactkError(_nothing_there(name, split, entries, tree))
    gone = set(missing)
    return VideoSet(
        name=name,
        split=split,
        classes=classes.classes,
        words=words_of(classes.classes, words),
        records=tuple(records.values()),
        missing=frozenset(
            place for place, record in enumerate(records.values()) if _is_gone(record.video, tree.root, gone)
        ),
        report=Report(
            num_listed=len(entries),
            missing=tuple(missing),
            duplicated=tuple(duplicated),
            empty_classes=_empty_classes(classes, records.values()),
            notes=(*notes, *_mixed(entries), *_ambiguous(finder)),
        ),
    )


def _is_gone(video: Path, root: Path, missing: set[str]) -> bool:
    return str(video) in missing or (
        video.is_relative_to(root) and video.relative_to(root).as_posix() in missing
    )


def _empty_classes(classes: ClassIndex, records: Iterable[Record]) -> tuple[str, ...]:
    used = {record.label for record in records}
    if None in used:  # a list without labels
        return ()
    return tuple(label for number, label in enumerate(classes.classes) if number not in used)


def _check_same(record: Record, label: int | None, entry: Entry, classes: ClassIndex) -> None:
    if record.label is not None and label is not None and record.label != label:
        one, other = classes.classes[record.label], classes.classes[label]
        raise VactkError(f"'{entry.video}' is listed with two classes, '{one}' and '{other}'")


def _mixed(entries: Sequence[Entry]) -> list[str]:
    absolute = sum(Path(entry.video).is_absolute() for entry in entries)
    if 0 < absolute < len(entries):
        return [f"{absolute:,} of {len(entries):,} paths are absolute, the others relative"]
    return []


def _ambiguous(finder: VideoFinder) -> list[str]:
    if not finder.num_ambiguous:
        return []
    return [
        f"{finder.num_ambiguous:,} videos lie in several places of '{finder.tree.root}': the first is read"
    ]


def _nothing_there(name: str, split: str, entries: Sequence[Entry], tree: Tree) -> str:
    if not entries:
        return f"the list of {name}, {split}, has no videos"
    return (
        f"none of the {len(entries):,} videos of {name}, {split}, is under '{tree.root}', which holds "
        f"{len(tree.videos):,} videos; the first listed is '{entries[0].video}'"
    )
