"""Approximate search with faiss: clusters of vectors, of which a query looks at the nearest few.

What it finds is scored again with the index's own vectors: a hit's score is exact, only a hit can be missed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vactk.errors import VactkError
from vactk.files.atomic import atomic_path, write_text
from vactk.retrieval.index.shards import Shard, nearest
from vactk.retrieval.index.store import Neighbors

Method = Literal["auto", "exact", "approximate"]
PAYS_FROM = 200_000  # entries: below, a scan takes some 25 ms
WANTED_RECALL = 0.95  # at 10, against exact search
RECALL_AT = 10
PROBES = 200  # queries that recall is measured with
TRAINED_ON = 64  # vectors for each cluster
SCORED_AGAIN = 4  # candidates for each hit
READ_AT_MOST = 1 / 8  # of the clusters: where more are needed, a scan of all entries is as quick
NEW_CLUSTERS_FROM = 1.5  # growth since the clusters were made, above which they are made anew
INDEX, STATE = "approximate.faiss", "approximate.json"


@dataclass
class FaissIndex:
    """A faiss index of an index's entries."""

    index: Any
    recall: float  # at 10, as measured when it was built

    @property
    def title(self) -> str:
        return f"approximate (faiss, recall@{RECALL_AT} {self.recall:.3f})"

    def nearest(self, shards: Sequence[Shard], queries: Tensor, count: int) -> list[Neighbors]:
        """As `shards.nearest`, with some entries missed. queries (Q, E) float32"""
        _, candidates = self.index.search(queries.numpy(), count * SCORED_AGAIN)
        return [
            _score(shards, q, np.sort(k[k >= 0]), count) for q, k in zip(queries, candidates, strict=True)
        ]


def _score(shards: Sequence[Shard], query: Tensor, keys: np.ndarray, count: int) -> Neighbors:
    """The best of some entries, by their exact scores. keys (K,) ascending"""
    parts = []
    for shard in shards:
        rows = _rows_of(shard, keys)
        parts.append(Shard(shard.path, shard.vectors[rows], shard.keys[rows]))
    (found,) = nearest(parts, query[None], count)
    return found


def _rows_of(shard: Shard, keys: np.ndarray) -> np.ndarray:
    """Rows of those of `keys` that the shard has; its own keys ascend, but for those taken out."""
    first, last = shard.keys[0], shard.keys[-1]
    if first >= 0 and last >= 0 and last - first == len(shard.keys) - 1:
        return keys[(keys >= first) & (keys <= last)] - first
    return np.flatnonzero(np.isin(shard.keys, keys))


def load(folder: Path, shards: Sequence[Shard]) -> FaissIndex | None:
    """Load the search structure that was built for exactly these entries, if any."""
    state = _read_state(folder)
    if state.get("entries") != _fingerprint(shards) or importlib.util.find_spec("faiss") is None:
        return None
    faiss = _faiss()
    try:
        index = faiss.read_index(str(folder / INDEX), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        index.nprobe = int(state["clusters_read"])
        return FaissIndex(index, float(state["recall"]))
    except (RuntimeError, KeyError, ValueError):  # damaged: a scan finds everything
        return None


def build(
    folder: Path, shards: Sequence[Shard], probes: Tensor, method: Method, message: Callable[[str], None]
) -> None:
    """Bring the faiss index up to date where it pays, or `method` wants it, and measure its recall.

    probes (P, E) float32: queries such as users will ask. Raises VactkError where faiss is wanted and missing.
    """
    entries = sum(int((shard.keys >= 0).sum()) for shard in shards)
    wanted = method == "approximate" or (method == "auto" and entries >= PAYS_FROM)
    if wanted and method == "auto" and importlib.util.find_spec("faiss") is None:
        message(f"{entries:,} entries: searches would be quicker with pip install 'vactk[faiss]'")
        wanted = False
    if not wanted or not entries:
        _remove(folder)
        return
    state, fingerprint = _read_state(folder), _fingerprint(shards)
    if state.get("entries") == fingerprint:
        return
    index = _updated(folder, state, shards, entries) or _new(shards, entries)
    recall = _tune(index, shards, probes[:PROBES])
    if method == "auto" and index.nprobe > READ_AT_MOST * index.nlist:
        message(
            f"approximate search would have to read {index.nprobe} of {index.nlist} clusters for a recall of "
            f"{recall:.2f}: exact search is kept (--search approximate keeps the other)"
        )
        _remove(folder)
        return
    with atomic_path(folder / INDEX) as temporary:
        _faiss().write_index(index, str(temporary))
    trained = state["trained"] if index.ntotal and state.get("clusters") == index.nlist else entries
    write_text(
        folder / STATE,
        json.dumps({
            "entries": fingerprint, "clusters": index.nlist, "clusters_read": index.nprobe,
            "trained": trained, "recall": recall,
        }),
    )  # fmt: skip
    message(
        f"approximate search over {entries:,} entries: {index.nprobe} of {index.nlist} clusters are read, "
        f"recall@{RECALL_AT} {recall:.3f} against exact search"
    )


def _remove(folder: Path) -> None:
    for name in (STATE, INDEX):  # a state without its index would pass for up to date
        (folder / name).unlink(missing_ok=True)


def _new(shards: Sequence[Shard], entries: int) -> Any:
    faiss = _faiss()
    dim = shards[0].vectors.shape[1]
    clusters = max(1, min(int(4 * entries**0.5), entries // TRAINED_ON))
    metric = faiss.METRIC_INNER_PRODUCT
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFScalarQuantizer(quantizer, dim, clusters, faiss.ScalarQuantizer.QT_8bit, metric)
    index.train(_sample(shards, clusters * TRAINED_ON))
    _add(index, shards, None)
    return index


def _updated(folder: Path, state: dict[str, Any], shards: Sequence[Shard], entries: int) -> Any:
    """The former index with what came and without what went; None where it would no longer fit."""
    if not state or entries > NEW_CLUSTERS_FROM * state.get("trained", 0):
        return None
    faiss = _faiss()
    try:
        index = faiss.read_index(str(folder / INDEX))
    except RuntimeError:
        return None
    lists = index.invlists
    had = [
        faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number)).copy()
        for number in range(index.nlist)
        if lists.list_size(number)
    ]
    before = np.sort(np.concatenate(had)) if had else np.empty(0, np.int64)
    now = np.concatenate([shard.keys[shard.keys >= 0] for shard in shards])
    index.remove_ids(np.setdiff1d(before, now))
    _add(index, shards, np.setdiff1d(now, before))
    return index


def _add(index: Any, shards: Sequence[Shard], only: np.ndarray | None) -> None:
    for shard in shards:
        rows = np.flatnonzero(shard.keys >= 0 if only is None else np.isin(shard.keys, only))
        for start in range(0, len(rows), 65_536):
            part = rows[start : start + 65_536]
            index.add_with_ids(shard.vectors[part].float().numpy(), shard.keys[part])


def _sample(shards: Sequence[Shard], count: int) -> np.ndarray:
    """Vectors drawn evenly from all, the same ones each time. -> (count, E) float32"""
    rng = np.random.default_rng(0)
    total = sum(len(shard.keys) for shard in shards)
    share = min(1.0, count / total)
    parts = []
    for shard in shards:
        live = np.flatnonzero(shard.keys >= 0)
        rows = np.sort(rng.choice(live, max(1, round(share * len(live))), replace=False))
        parts.append(shard.vectors[rows])
    return torch.cat(parts).float().numpy()


def _tune(index: Any, shards: Sequence[Shard], probes: Tensor) -> float:
    """Read as many clusters as the wanted recall takes; the recall that is reached."""
    exact = nearest(shards, probes, RECALL_AT)
    recall, index.nprobe = 0.0, 1
    while True:
        found = FaissIndex(index, 0.0).nearest(shards, probes, RECALL_AT)
        shared = [len({*f.keys} & {*e.keys}) / max(1, len(e.keys)) for f, e in zip(found, exact, strict=True)]
        recall = float(np.mean(shared))
        if recall >= WANTED_RECALL or index.nprobe >= index.nlist:
            return recall
        index.nprobe = min(index.nlist, 2 * index.nprobe)


def _fingerprint(shards: Sequence[Shard]) -> str:
    """Return a hash of the entries that count."""
    names = [f"{shard.path.name}:{int((shard.keys < 0).sum())}" for shard in shards]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _read_state(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return state if isinstance(state, dict) else {}
    return {}


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise VactkError("approximate search needs a package: pip install 'vactk[faiss]'") from error
    return faiss
