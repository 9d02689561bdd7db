"""A protocol with the files that it measures: which classes and videos make up each of its results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vactk.data.annotations.classes import ClassIndex, known_classes, match_key, read_classes
from vactk.data.annotations.entries import AnnotationEntry, is_number
from vactk.data.annotations.lists import read_list
from vactk.data.benchmarks import Benchmark, find_benchmark
from vactk.data.class_subsets import not_in_k400, random_halves
from vactk.data.file_tree import FileTree
from vactk.data.match_files import match_entries
from vactk.data.records import Record, VideoSet
from vactk.errors import VactkError
from vactk.evaluate.protocol import Protocol

SHOWN_DIFFERENCES = 3


@dataclass(frozen=True)
class ProtocolSplit:
    """One result of a protocol: some classes, and videos of them."""

    name: str
    classes: tuple[int, ...]  # of the plan's classes
    places: tuple[int, ...]  # of the plan's records


@dataclass(frozen=True)
class ProtocolData:
    """What a protocol measures on this machine. Videos that several draws share are there once."""

    protocol: Protocol
    videos: VideoSet
    draws: tuple[ProtocolSplit, ...]
    notes: tuple[str, ...]  # what differs from the published protocol

    @property
    def hash(self) -> str:
        """Of the classes and videos of all draws, whatever the files' folders and suffixes."""
        return content_hash(self.videos, self.draws)


def content_hash(videos: VideoSet, draws: Sequence[ProtocolSplit] | None = None) -> str:
    """12 hexadecimal digits of the SHA-256 of what is measured: classes, and names, labels, times and captions
    of videos, in any order. Two results with one hash were measured on the same lists.
    """
    whole = ProtocolSplit("", tuple(range(len(videos.classes))), tuple(range(len(videos.records))))
    content = [
        [
            sorted(match_key(videos.classes[number]) for number in draw.classes),
            sorted(_fingerprint(videos, videos.records[place]) for place in draw.places),
        ]
        for draw in draws or [whole]
    ]
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _fingerprint(videos: VideoSet, record: Record) -> str:
    label = "" if record.label is None else match_key(videos.classes[record.label])
    captions = () if videos.classes else record.captions  # captions beside a label are not measured
    return json.dumps([record.name or record.video.stem, label, record.start_s, record.end_s, *captions])


def load_protocol_data(protocol: Protocol, root: Path | None = None) -> ProtocolData:
    """The protocol on the user's files. Raises VactkError where the dataset or a list of it is not there."""
    benchmark = find_benchmark(protocol.dataset)
    if protocol.lists:
        parts = list(_listed_parts(protocol, benchmark, benchmark.tree(root)))
    else:
        parts = [
            part
            for split in protocol.splits
            for part in _chosen(protocol, _load(benchmark, split, root), split, root)
        ]
    videos, draws = _merge(parts)
    notes = [line for name, part, _ in parts for line in (part.report.notes if part.report else ())]
    plan = ProtocolData(protocol, videos, draws, tuple(dict.fromkeys(notes)))
    return dataclasses.replace(plan, notes=(*plan.notes, *_differences(plan)))


Part = tuple[str, VideoSet, tuple[int, ...]]  # a draw's name, its videos, its classes


def _load(benchmark: Benchmark, split: str, root: Path | None) -> VideoSet:
    """A split, or several with + between their names."""
    first, *others = [benchmark.load(name, root=root) for name in split.split("+")]
    for other in others:
        shift = len(first.records)
        first = dataclasses.replace(
            first,
            split=f"{first.split}+{other.split}",
            records=(*first.records, *other.records),
            missing=first.missing | {place + shift for place in other.missing},
        )
    return first


def _chosen(protocol: Protocol, videos: VideoSet, split: str, root: Path | None) -> Iterator[Part]:
    """The draws of a split by the protocol's rule for classes."""
    for name, classes in CLASS_RULES[protocol.classes](protocol, videos, root):
        yield name or split, videos, classes


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


def _listed_parts(protocol: Protocol, benchmark: Benchmark, tree: FileTree) -> Iterator[Part]:
    """A draw for each record list, whose numbers count through its own class table."""
    known = known_classes(benchmark.name)
    index = ClassIndex(tuple(known), benchmark.name, known)
    for draw in range(1, protocol.draws + 1):
        table = _find_file(tree, protocol.class_tables, draw, protocol, "class table")
        listing = _find_file(tree, protocol.lists, draw, protocol, "record list")
        labels = read_classes(table)
        entries = [_named(entry, labels, listing) for entry in read_list(listing).entries]
        name = f"split {draw}"
        videos = match_entries(entries, index, tree, name=benchmark.name, split=name)
        yield name, videos, _numbers(index, labels, protocol)


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


def _merge(parts: Sequence[Part]) -> tuple[VideoSet, tuple[ProtocolSplit, ...]]:
    """All videos once, and the draws that count through them."""
    first = parts[0][1]
    places: dict[Record, int] = {}
    missing: set[int] = set()
    draws = []
    for name, videos, classes in parts:
        wanted = set(classes)
        own = []
        for place, record in enumerate(videos.records):
            if videos.classes and record.label not in wanted:
                continue
            merged = places.setdefault(record, len(places))
            own.append(merged)
            if place in videos.missing:
                missing.add(merged)
        draws.append(ProtocolSplit(name, classes, tuple(own)))
    merged_videos = dataclasses.replace(first, records=tuple(places), missing=frozenset(missing), report=None)
    return merged_videos, tuple(draws)


def _differences(plan: ProtocolData) -> list[str]:
    """Lines on counts and content that are not those of the protocol."""
    protocol = plan.protocol
    videos = protocol.num_videos or (0,) * len(plan.draws)
    lines = [
        f"{draw.name} has {found:,} {what}, published: {expected:,}"
        for draw, num_videos in zip(plan.draws, videos, strict=True)
        for what, found, expected in (
            ("classes", len(draw.classes), protocol.num_classes),
            ("videos", len(draw.places), num_videos),
        )
        if expected and found != expected
    ]
    if len(lines) > SHOWN_DIFFERENCES:
        lines = [*lines[:SHOWN_DIFFERENCES], f"{len(lines) - SHOWN_DIFFERENCES} more counts differ"]
    if protocol.hash and plan.hash != protocol.hash:
        lines.append(f"its content is {plan.hash}, not {protocol.hash} as by the official files")
    return lines
