"""Matching the entries of an annotation file with video files, with a report on what does not match."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vactk.data.annotations.classes import ClassIndex
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
    notes: Sequence[str] = (),
    strict: bool = True,
) -> VideoSet:
    """Return the records of a split, in the order of the list, each video once, with a report.

    Videos that are not on disk keep their record, so that an evaluation counts them; `VideoSet.present` drops
    them. With `strict`, raises VactkError where a label is not a class, a video has two classes, or no listed
    video is on disk; otherwise these are reported too.
    """
    matched = _Matched()
    finder = VideoFinder(tree, entries)
    for entry in entries:
        matched.add(entry, finder, classes)
    if matched.missing and tree.from_index:  # files may have been added since it was written
        fresh = FileTree.scan(tree.root, use_index=False)
        return match_entries(entries, classes, fresh, name=name, split=split, notes=notes, strict=strict)
    unknown = tuple(classes.describe_unknown(matched.unknown))
    if strict:
        _check(matched, unknown, entries, tree, f"{name}/{split}")
    return VideoSet(
        name=name,
        split=split,
        classes=classes.classes,
        words=classes.words,
        records=tuple(matched.records.values()),
        missing=frozenset(i for i, segment in enumerate(matched.records) if segment in matched.absent),
        report=_report(matched, unknown, entries, finder, classes, notes),
    )


Segment = tuple[Path, float | None, float | None]  # video, start_s, end_s


@dataclass
class _Matched:
    """Records so far, and what did not match."""

    records: dict[Segment, Record] = field(default_factory=dict)
    absent: set[Segment] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    contradictory: list[str] = field(default_factory=list)

    def add(self, entry: AnnotationEntry, finder: VideoFinder, classes: ClassIndex) -> None:
        found = finder.find(entry)
        path = found or finder.tree.root / entry.video
        segment = (path, entry.start_s, entry.end_s)
        if found is None:
            self.missing.append(entry.video)
            self.absent.add(segment)
        label = None if entry.label is None else classes.find(entry.label)
        if entry.label is not None and label is None:
            self.unknown.add(entry.label)
        if segment in self.records:
            self._add_duplicate(entry, label, self.records[segment].label, classes)
            return
        self.records[segment] = Record(
            video=path,
            label=label,
            start_s=entry.start_s,
            end_s=entry.end_s,
            captions=entry.captions,
            name=entry.key,
            length_s=entry.length_s,
        )

    def _add_duplicate(
        self, entry: AnnotationEntry, label: int | None, former: int | None, classes: ClassIndex
    ) -> None:
        self.duplicated.append(entry.video)
        if former is not None and label is not None and former != label:
            one, other = classes.classes[former], classes.classes[label]
            self.contradictory.append(f"'{entry.video}' is listed with two classes, '{one}' and '{other}'")


def _report(
    matched: _Matched,
    unknown: tuple[str, ...],
    entries: Sequence[AnnotationEntry],
    finder: VideoFinder,
    classes: ClassIndex,
    notes: Sequence[str],
) -> ListingReport:
    return ListingReport(
        num_listed=len(entries),
        missing=tuple(matched.missing),
        duplicated=tuple(matched.duplicated),
        unknown_labels=unknown,
        empty_classes=_empty_classes(classes, matched.records.values()),
        notes=(*notes, *matched.contradictory, *_mixed(entries), *_ambiguous(finder)),
    )


def _check(
    matched: _Matched, unknown: Sequence[str], entries: Sequence[AnnotationEntry], tree: FileTree, where: str
) -> None:
    """Raise VactkError for a list that cannot be used."""
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise VactkError(f"in the list of {where}: {unknown[0]}{more}")
    if matched.contradictory:
        raise VactkError(matched.contradictory[0])
    if not entries:
        raise VactkError(f"the list of {where} is empty")
    if len(matched.missing) == len(entries):
        raise VactkError(
            f"none of the {len(entries):,} videos of {where} is under '{tree.root}', which holds "
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
        f"{finder.num_ambiguous:,} videos have several matching files in '{finder.tree.root}'; the first is read"
    ]
