"""The contents of an index, and the interface of the stores that keep them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from vactk.data.records import Record
from vactk.errors import VactkError
from vactk.retrieval.hits import Hit, SearchFilter
from vactk.retrieval.index.file_identity import UNKNOWN, FileIdentity, FileState

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class IndexMetadata:
    """The model and settings that an index was built with; vectors of others are not comparable with its own."""

    dim: int  # of the vectors
    fingerprint: str  # of the model's weights
    model: dict[str, Any]  # the checkpoint or backbone, to open the model again
    reading: dict[str, Any]  # how videos become frames, and how they are cut in time
    format: int = FORMAT
    version: str = ""  # of vactk

    @property
    def model_name(self) -> str:
        """The checkpoint, or the backbone."""
        backbone = self.model.get("stated", {}).get("backbone", {})
        return str(self.model.get("checkpoint") or backbone.get("name", "another"))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: Any, where: object) -> IndexMetadata:
        """Build the metadata from stored values. Raises VactkError where they are not of this format."""
        try:
            facts = cls(**values)
            if not (isinstance(facts.model, dict) and isinstance(facts.reading, dict)):
                raise TypeError("it does not say what made it")
        except TypeError as error:
            raise VactkError(f"index '{where}' is damaged: {error}; build it again") from error
        if facts.format != FORMAT:
            raise VactkError(
                f"index '{where}' has format {facts.format}, this vactk {FORMAT}: build it again, "
                "or install another vactk"
            )
        return facts


@dataclass(frozen=True, kw_only=True)
class IndexItem:
    """A video that belongs into an index."""

    record: Record
    state: FileState
    label: str = ""
    source: str = ""  # what was added: a folder, or a dataset and its split

    @property
    def key(self) -> str:
        """The name of the video, or of the segment of it, within an index."""
        return item_key(self.record)

    def identify(self) -> FileIdentity:
        """Return what distinguishes its file from any other put in its place."""
        return FileIdentity.of(self.record.video, self.state)


def item_key(record: Record) -> str:
    """Return the file's path, with the times of a segment."""
    if record.start_s is None and record.end_s is None:
        return str(record.video)
    return f"{record.video}#t={record.start_s or 0:g},{'' if record.end_s is None else f'{record.end_s:g}'}"


class IndexedVideo(NamedTuple):
    """A video that an index already has."""

    path: Path
    state: FileState
    source: str
    problem: str  # why it could not be read; empty: it was


@dataclass(frozen=True, kw_only=True)
class VideoEmbeddings:
    """A video with its vectors, or with the reason for having none."""

    item: IndexItem
    spans: Sequence[tuple[float, float]] = ()  # of the W windows, in seconds
    vectors: Tensor | None = None  # (W, E) float32, unit norm
    problem: str = ""
    warning: str = ""


class IndexEntry(NamedTuple):
    """A window of a video that an index has."""

    video: Path
    start_s: float
    end_s: float
    label: str
    known_file: FileIdentity = UNKNOWN


@dataclass(frozen=True)
class Neighbors:
    """The nearest entries of one query, the nearest first."""

    keys: Sequence[int]
    scores: Sequence[float]


class Store(Protocol):
    """Where an index is kept. Writing needs `writing()`; what `write` took is there when it returns."""

    name: str  # as the user calls it

    @property
    def facts(self) -> IndexMetadata | None:
        """None where nothing was written yet."""
        ...

    def begin(self, facts: IndexMetadata) -> None:
        """Make a new index, or keep others from writing to the one that is there. Raises VactkError."""
        ...

    def known(self) -> Mapping[str, IndexedVideo]:
        """The videos that are there, by their keys, those that could not be read included."""
        ...

    def write(self, videos: Sequence[VideoEmbeddings]) -> None:
        """Put videos in, in the place of those with the same keys: all of them or, when killed, none."""
        ...

    def drop(self, keys: Collection[str]) -> None:
        """Take videos out."""
        ...

    def finish(self, probes: Tensor, message: Callable[[str], None]) -> None:
        """After the last `write`: tidy up, and prepare for quick searches. probes (P, E): typical queries"""
        ...

    def nearest(self, queries: Tensor, count: int, only: SearchFilter) -> list[Neighbors]:
        """Return the `count` nearest entries whose path and label `only` allows. queries (Q, E) float32"""
        ...

    def entries(self, keys: Collection[int]) -> Mapping[int, IndexEntry]:
        """Entries by their keys; those that are no longer there are left out."""
        ...

    def vectors(self, path: Path) -> Tensor | None:
        """(W, E) float32 of a video's windows; None where it is not there."""
        ...

    def labels(self) -> list[str]: ...

    def counts(self) -> Counts: ...

    def close(self) -> None: ...


class Counts(NamedTuple):
    """The size of an index."""

    videos: int  # that were read
    entries: int
    failed: int  # videos that could not be read
    method: str = "exact"  # of search


def thin_out(found: Neighbors, entries: Mapping[int, IndexEntry], wanted: SearchFilter) -> list[Hit]:
    """Hits out of the nearest entries: windows that overlap a better hit of the same video by more than half of
    the shorter are left out, and so is what `wanted` excludes.
    """
    hits: list[Hit] = []
    by_video: dict[Path, list[IndexEntry]] = {}
    for key, score in zip(found.keys, found.scores, strict=True):
        if wanted.min_score is not None and score < wanted.min_score:
            break
        entry = entries.get(key)
        if entry is None:
            continue
        better = by_video.setdefault(entry.video, [])
        if wanted.per_video and len(better) >= wanted.per_video:
            continue
        if any(_same_moment(entry, other) for other in better):
            continue
        better.append(entry)
        hits.append(Hit(rank=len(hits) + 1, score=score, key=key, **entry._asdict()))
        if len(hits) == wanted.top:
            break
    return hits


def _same_moment(one: IndexEntry, other: IndexEntry) -> bool:
    shared_s = min(one.end_s, other.end_s) - max(one.start_s, other.start_s)
    return shared_s > min(one.end_s - one.start_s, other.end_s - other.start_s) / 2
