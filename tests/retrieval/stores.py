"""Videos with drawn vectors, and what any store must find among them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from vactk.data.records import Record
from vactk.retrieval.hits import SearchFilter
from vactk.retrieval.index.file_identity import FileState
from vactk.retrieval.index.store import IndexItem, VideoEmbeddings

DIM = 8


def embedded(number: int, *, windows: int = 1, label: str = "", source: str = "here") -> VideoEmbeddings:
    """Video `number`, whose vectors depend on that alone."""
    generator = torch.Generator().manual_seed(number)
    vectors = F.normalize(torch.randn(windows, DIM, generator=generator), dim=-1)
    item = IndexItem(
        record=Record(video=Path(f"/videos/Clip {number}.mp4")),
        state=FileState(100 + number, 5),
        label=label,
        source=source,
    )
    return VideoEmbeddings(item=item, spans=[(float(n), n + 1.0) for n in range(windows)], vectors=vectors)


def unreadable(number: int) -> VideoEmbeddings:
    """A video that has no vectors."""
    return VideoEmbeddings(item=embedded(number).item, problem=f"cannot read 'Clip {number}.mp4'")


def content(store) -> set[tuple[str, float, float, str]]:
    """All that can be found in a store: videos, times and labels."""
    (found,) = store.nearest(torch.ones(1, store.facts.dim), 10_000, SearchFilter())
    entries = store.entries(found.keys)
    return {(str(e.video), e.start_s, e.end_s, e.label) for e in entries.values()}


def best(store, query, count=3, **only):
    """(video, score) of the nearest entries."""
    (found,) = store.nearest(query[None], count, SearchFilter(**only))
    entries = store.entries(found.keys)
    return [(entries[key].video.name, score) for key, score in zip(found.keys, found.scores, strict=True)]
