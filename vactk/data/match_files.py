"""Entries of an annotation file as records of files, with a report of what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vactk.data.annotations.classes import ClassIndex, words_of
from vactk.data.annotations.entries import AnnotationEntry
from vactk.data.file_tree import FileTree, VideoFinder
from vactk.data.records import ListingReport, Record, VideoSet
from vactk.errors import VactkError


def match_entries(
    entries: Sequence[AnnotationEntry],
    classes: ClassIndex,
    tree: FileTree,
    *,
    name: str,
    split: str,
    words: dict[str, str] | None = None,
    notes: Sequence[str] = (),
    strict: bool = True,
) -> VideoSet:
    """The records of a split, in the order of the list, each video once, with a report of what does not fit.

    Videos that are not on disk keep their record, so that an evaluation counts them; `VideoSet.present` is
    without them. With `strict`, VactkError is raised where a label is no class, a video has two classes, or no
    listed video is there; otherwise that is reported too.
    """
    matched = _Matched()
    finder = VideoFinder(tree, entries)
    for entry in entries:
        matched.add(entry, finder, classes)
    if matched.missing and tree.from_index:  # files may have come since it was written
        fresh = FileTree.scan(tree.root, use_index=False)
        return match_entries(
            entries, classes, fresh, name=name, split=split, words=words, notes=notes, strict=strict
        )
    unknown = tuple(classes.describe_unknown(matched.unknown))
    if strict:
        _check(matched, unknown, entries, tree, f"{name}, {split}")
    report = ListingReport(
        num_listed=len(entries),
        missing=tuple(matched.missing),
        duplicated=tuple(matched.duplicated),
        unknown_labels=unknown,
        empty_classes=_empty_classes(classes, matched.records.values()),
        notes=(*notes, *matched.contradictory, *_mixed(entries), *_ambiguous(finder)),
    )
    return VideoSet(
        name=name,
        split=split,
        classes=classes.classes,
        words=words_of(classes.classes, words),
        records=tuple(matched.records.values()),
        missing=frozenset(place for place, key in enumerate(matched.records) if key in matched.gone),
        report=report,
    )


Key = tuple[Path, float | None, float | None]  # a video, or a part of it


@dataclass
class _Matched:
    """Entries as records, and what did not fit on the way."""

    records: dict[Key, Record] = field(default_factory=dict)
    gone: set[Key] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    contradictory: list[str] = field(default_factory=list)

    def add(self, entry: AnnotationEntry, finder: VideoFinder, classes: ClassIndex) -> None:
        found = finder.find(entry)
        path = found or finder.tree.root / entry.video
        key = (path, entry.start_s, entry.end_s)
        if found is None:
            self.missing.append(entry.video)
            self.gone.add(key)
        label = None if entry.label is None else classes.find(entry.label)
        if entry.label is not None and label is None:
            self.unknown.add(entry.label)
        if key in self.records:
            self._repeat(entry, label, self.records[key].label, classes)
            return
        self.records[key] = Record(
            video=path,
            label=label,
            start_s=entry.start_s,
            end_s=entry.end_s,
            captions=entry.captions,
            name=entry.key,
            length_s=entry.length_s,
        )

    def _repeat(
        self, entry: AnnotationEntry, label: int | None, former: int | None, classes: ClassIndex
    ) -> None:
        self.duplicated.append(entry.video)
        if former is not None and label is not None and former != label:
            one, other = classes.classes[former], classes.classes[label]
            self.contradictory.append(f"'{entry.video}' is listed with two classes, '{one}' and '{other}'")


def _check(
    matched: _Matched, unknown: Sequence[str], entries: Sequence[AnnotationEntry], tree: FileTree, where: str
) -> None:
    """Raises VactkError for what makes a list useless."""
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise VactkError(f"the list of {where}: {unknown[0]}{more}")
    if matched.contradictory:
        raise VactkError(matched.contradictory[0])
    if not entries:
        raise VactkError(f"the list of {where}, has no videos")
    if len(matched.missing) == len(entries):
        raise VactkError(
            f"none of the {len(entries):,} videos of {where}, is under '{tree.root}', which holds "
            f"{len(tree.videos):,} videos; the first listed is '{entries[0].video}'"
        )


def _empty_classes(classes: ClassIndex, records: Iterable[Record]) -> tuple[str, ...]:
    used = {record.label for record in records}
    if None in used:  # a list without labels
        return ()
    return tuple(label for number, label in enumerate(classes.classes) if number not in used)


def _mixed(entries: Sequence[AnnotationEntry]) -> list[str]:
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
