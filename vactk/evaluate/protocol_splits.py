"""Find the classes and videos of each split of a protocol among the user's files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vactk.data.annotations.classes import ClassIndex, known_classes, match_key, read_classes
from vactk.data.annotations.entries import AnnotationEntry, is_number
from vactk.data.annotations.lists import read_list
from vactk.data.benchmarks import Benchmark, find_benchmark
from vactk.data.class_subsets import not_in_k400, random_halves
from vactk.data.datasets import find_dataset
from vactk.data.file_tree import FileTree
from vactk.data.match_files import match_entries
from vactk.data.records import Record, VideoSet
from vactk.errors import VactkError
from vactk.evaluate.protocol import Protocol
from vactk.progress import Progress

SHOWN_DIFFERENCES = 3


@dataclass(frozen=True)
class ProtocolSplit:
    """Some classes and videos of them, which one result is measured on."""

    name: str
    classes: tuple[int, ...]  # indices into the classes
    records: tuple[int, ...]  # indices into the records


@dataclass(frozen=True)
class ProtocolData:
    """The videos of a protocol on this machine. Videos that several splits share are there once."""

    protocol: Protocol
    videos: VideoSet
    splits: tuple[ProtocolSplit, ...]
    notes: tuple[str, ...] = ()  # differences from the published protocol

    @property
    def hash(self) -> str:
        """Identify the classes and videos of all splits, whatever the files' folders and suffixes."""
        return content_hash(self.videos, self.splits)


def split_data(videos: VideoSet) -> ProtocolData:
    """Return a dataset's split as a protocol of one split, with all of its classes and videos."""
    protocol = Protocol(
        name=f"{videos.name}/{videos.split}", title="all classes", source="", splits=(videos.split,)
    )
    notes = tuple(videos.report.lines()) if videos.report else ()
    return ProtocolData(protocol, videos, (_whole(videos),), notes)


def load_split_data(
    name: str, split: str | None, root: Path | None, progress: Progress | None = None
) -> ProtocolData:
    """Load a dataset's split, by default its test split. Raises VactkError when videos have no labels."""
    dataset = find_dataset(name)
    if not dataset.labelled:
        raise VactkError(f"'{name}' names no classes: give --labels and the videos, or a dataset with labels")
    videos = dataset.load(split or dataset.test_split, root=root, progress=progress)
    if any(record.label is None for record in videos.records):
        raise VactkError(
            f"{videos.name}/{videos.split} has no labels to evaluate with: choose another --split"
        )
    return split_data(videos)


def _whole(videos: VideoSet) -> ProtocolSplit:
    return ProtocolSplit(videos.split, tuple(range(len(videos.classes))), tuple(range(len(videos.records))))


def content_hash(videos: VideoSet, splits: Sequence[ProtocolSplit] = ()) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of what is evaluated; without `splits`, of all videos.

    Classes, and names, labels, times and captions of videos, in any order. Two results with the same hash were
    measured on the same lists.
    """
    content = [
        [
            sorted(match_key(videos.classes[number]) for number in split.classes),
            sorted(_fingerprint(videos, videos.records[index]) for index in split.records),
        ]
        for split in splits or [_whole(videos)]
    ]
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _fingerprint(videos: VideoSet, record: Record) -> str:
    label = "" if record.label is None else match_key(videos.classes[record.label])
    captions = () if videos.classes else record.captions  # captions beside a label are not measured
    return json.dumps([record.name or record.video.stem, label, record.start_s, record.end_s, *captions])


def load_protocol_data(protocol: Protocol, root: Path | None = None) -> ProtocolData:
    """Find a protocol's videos on disk. Raises VactkError when the dataset or one of its lists is missing."""
    benchmark = find_benchmark(protocol.dataset)
    if protocol.lists:
        parts = list(_listed_splits(protocol, benchmark, benchmark.tree(root)))
    else:
        parts = [
            part
            for split in protocol.splits
            for part in _chosen(protocol, _load(benchmark, split, root), split, root)
        ]
    videos, splits = _merge(parts)
    notes = [line for part in parts for line in (part.videos.report.notes if part.videos.report else ())]
    data = ProtocolData(protocol, videos, splits, tuple(dict.fromkeys(notes)))
    return dataclasses.replace(data, notes=(*data.notes, *_differences(data)))


class _SplitVideos(NamedTuple):
    """A split before videos shared with others are merged."""

    name: str
    videos: VideoSet
    classes: tuple[int, ...]


def _load(benchmark: Benchmark, split: str, root: Path | None) -> VideoSet:
    """Load a split, or several with + between their names."""
    first, *others = [benchmark.load(name, root=root) for name in split.split("+")]
    for other in others:
        shift = len(first.records)
        first = dataclasses.replace(
            first,
            split=f"{first.split}+{other.split}",
            records=(*first.records, *other.records),
            missing=first.missing | {index + shift for index in other.missing},
        )
    return first


def _chosen(protocol: Protocol, videos: VideoSet, split: str, root: Path | None) -> Iterator[_SplitVideos]:
    """Choose classes of a dataset's split by the protocol's rule, once for each draw."""
    for name, classes in CLASS_RULES[protocol.classes](protocol, videos, root):
        yield _SplitVideos(name or split, videos, classes)


Choice = Iterator[tuple[str, tuple[int, ...]]]


def _all(protocol: Protocol, videos: VideoSet, root: Path | None) -> Choice:
    yield "", tuple(range(len(videos.classes)))


def _half(protocol: Protocol, videos: VideoSet, root: Path | None) -> Choice:
    halves = random_halves(len(videos.classes), protocol.draws, protocol.seed)
    for draw, classes in enumerate(halves, 1):
        yield f"draw {draw}", classes


def _base_novel(protocol: Protocol, videos: VideoSet, root: Path | None) -> Choice:
    base, novel = find_benchmark(protocol.dataset).halves(root)
    yield "base", base
    yield "novel", novel


def _not_in_k400(protocol: Protocol, videos: VideoSet, root: Path | None) -> Choice:
    yield "", not_in_k400(videos.classes)


def _listed(protocol: Protocol, videos: VideoSet, root: Path | None) -> Choice:
    tree = find_benchmark(protocol.dataset).tree(root)
    index = ClassIndex(videos.classes, protocol.dataset)
    for draw in range(1, protocol.draws + 1):
        labels = read_classes(_find_file(tree, protocol.class_tables, draw, protocol, "class table"))
        yield f"split {draw}", _numbers(index, labels, protocol)


CLASS_RULES: dict[str, Callable[[Protocol, VideoSet, Path | None], Choice]] = {
    "all": _all,
    "half": _half,
    "base_novel": _base_novel,
    "not_in_k400": _not_in_k400,
    "listed": _listed,
}


def _listed_splits(protocol: Protocol, benchmark: Benchmark, tree: FileTree) -> Iterator[_SplitVideos]:
    """Read each record list, whose numeric labels index its own class table."""
    known = known_classes(benchmark.name)
    index = ClassIndex(tuple(known), benchmark.name, known)
    for draw in range(1, protocol.draws + 1):
        table = _find_file(tree, protocol.class_tables, draw, protocol, "class table")
        listing = _find_file(tree, protocol.lists, draw, protocol, "record list")
        labels = read_classes(table)
        entries = [_named(entry, labels, listing) for entry in read_list(listing).entries]
        name = f"split {draw}"
        videos = match_entries(entries, index, tree, name=benchmark.name, split=name)
        yield _SplitVideos(name, videos, _numbers(index, labels, protocol))


def _named(entry: AnnotationEntry, labels: Sequence[str], listing: Path) -> AnnotationEntry:
    if entry.label is None or not is_number(entry.label):
        return entry
    if int(entry.label) >= len(labels):
        raise VactkError(
            f"'{listing}' has label {entry.label}, but its class table has {len(labels)} classes"
        )
    return dataclasses.replace(entry, label=labels[int(entry.label)])


def _numbers(index: ClassIndex, labels: Sequence[str], protocol: Protocol) -> tuple[int, ...]:
    found = [index.find(label) for label in labels]
    strangers = [label for label, number in zip(labels, found, strict=True) if number is None]
    if strangers:
        raise VactkError(f"the class table of {protocol.name}: {index.describe_unknown(strangers)[0]}")
    return tuple(sorted(number for number in found if number is not None))


def _find_file(tree: FileTree, patterns: Sequence[str], draw: int, protocol: Protocol, kind: str) -> Path:
    names = [pattern.format(draw=draw) for pattern in patterns]
    found = tree.matching(*names)
    if not found:
        raise VactkError(
            f"protocol {protocol.name} needs its {kind} for split {draw} under '{tree.root}', a file such "
            f"as {names[0]}; it was published with: {protocol.source}"
        )
    return found[0]


def _merge(parts: Sequence[_SplitVideos]) -> tuple[VideoSet, tuple[ProtocolSplit, ...]]:
    """Collect the videos of all splits once, and the splits with indices into them."""
    merged: dict[Record, int] = {}
    missing: set[int] = set()
    splits = []
    for name, videos, classes in parts:
        wanted = set(classes)
        own = []
        for index, record in enumerate(videos.records):
            if videos.classes and record.label not in wanted:
                continue
            own.append(merged.setdefault(record, len(merged)))
            if index in videos.missing:
                missing.add(own[-1])
        splits.append(ProtocolSplit(name, classes, tuple(own)))
    first = parts[0].videos
    videos = dataclasses.replace(first, records=tuple(merged), missing=frozenset(missing), report=None)
    return videos, tuple(splits)


def _differences(data: ProtocolData) -> list[str]:
    """Describe counts and content that differ from the published ones."""
    protocol = data.protocol
    videos = protocol.num_videos or (0,) * len(data.splits)
    lines = [
        f"{split.name} has {found:,} {what}, published: {expected:,}"
        for split, num_videos in zip(data.splits, videos, strict=True)
        for what, found, expected in (
            ("classes", len(split.classes), protocol.num_classes),
            ("videos", len(split.records), num_videos),
        )
        if expected and found != expected
    ]
    if len(lines) > SHOWN_DIFFERENCES:
        lines = [*lines[:SHOWN_DIFFERENCES], f"{len(lines) - SHOWN_DIFFERENCES} more counts differ"]
    if protocol.hash and data.hash != protocol.hash:
        lines.append(f"its content hash is {data.hash}, that of the official files {protocol.hash}")
    return lines
