"""Files of vectors, and exact search over them in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vactk.errors import VactkError
from vactk.retrieval.store import Found
from vactk.weights.atomic import atomic_path
from vactk.weights.files import unreadable

BLOCK_BYTES = (
    2 * 2**20
)  # of vectors that are widened to float32 at a time: they stay in the processor's cache
SCAN_ROWS = 65_536  # whose scores are kept before the best are chosen
QUERIES_AT_ONCE = 64
NAME = r"vectors-[0-9a-f]{16}\.safetensors"  # of the files that `write_shard` makes


@dataclass(frozen=True)
class Shard:
    """A file of vectors, mapped into memory."""

    path: Path
    vectors: Tensor  # (N, E) float16, unit norm
    keys: np.ndarray  # (N,) int64: the entries; -1 for those that were taken out


def write_shard(folder: Path, vectors: Tensor, keys: np.ndarray) -> str:
    """A new file, whole or not at all, and its name, which its content fixes."""
    digest = hashlib.sha256(vectors.numpy().tobytes() + keys.tobytes()).hexdigest()[:16]
    name = f"vectors-{digest}.safetensors"
    content = save({"vectors": vectors.contiguous(), "keys": torch.from_numpy(keys)})
    with atomic_path(folder / name, "--index") as temporary:
        temporary.write_bytes(
            content
        )  # not by `save_file`, whose temporary files have names that anyone's may
    return name


def repack(shards: Iterable[Shard], size: int) -> Iterator[tuple[Tensor, np.ndarray]]:
    """The vectors that count and their keys, in their order, `size` at a time and at last the remainder."""
    held: list[tuple[Tensor, np.ndarray]] = []
    for shard in shards:
        rows = np.flatnonzero(shard.keys >= 0)
        while len(rows):
            room = size - sum(len(keys) for _, keys in held)
            held.append((shard.vectors[rows[:room]], shard.keys[rows[:room]]))
            if len(rows) >= room:
                yield _joined(held)
                held = []
            rows = rows[room:]
    if held:
        yield _joined(held)


def _joined(parts: Sequence[tuple[Tensor, np.ndarray]]) -> tuple[Tensor, np.ndarray]:
    return torch.cat([vectors for vectors, _ in parts]), np.concatenate([keys for _, keys in parts])


def open_shard(path: Path, num_rows: int, dim: int, dead: Sequence[int]) -> Shard:
    """Raises VactkError where the file is damaged or not of this size, FileNotFoundError where it is gone."""
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework="pt") as file:
            vectors, keys = file.get_tensor("vectors"), file.get_tensor("keys").numpy()
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error
    if vectors.shape != (num_rows, dim) or vectors.dtype != torch.float16 or keys.shape != (num_rows,):
        raise VactkError(f"'{path}' is damaged: it does not hold {num_rows} vectors of {dim} numbers")
    if dead:
        keys = keys.copy()
        keys[list(dead)] = -1
    return Shard(path, vectors, keys)


@torch.no_grad()
def nearest(
    shards: Sequence[Shard], queries: Tensor, count: int, allowed: np.ndarray | None = None
) -> list[Found]:
    """The entries with the largest dot products, by a scan of all. queries (Q, E) float32

    Of equal ones the smaller key comes first. `allowed`: sorted keys; others do not count.
    """
    return [
        found
        for group in queries.split(QUERIES_AT_ONCE)
        for found in _nearest(shards, group.contiguous(), count, allowed)
    ]


def _nearest(
    shards: Sequence[Shard], queries: Tensor, count: int, allowed: np.ndarray | None
) -> Iterator[Found]:
    best = torch.empty(len(queries), 0)
    best_keys = torch.empty(len(queries), 0, dtype=torch.int64)
    for shard in shards:
        counting = shard.keys >= 0 if allowed is None else np.isin(shard.keys, allowed)
        if not counting.any():
            continue
        without = None if counting.all() else torch.from_numpy(~counting)
        for start in range(0, len(shard.vectors), SCAN_ROWS):
            rows = slice(start, start + SCAN_ROWS)
            scores = _scores(queries, shard.vectors[rows])
            if without is not None:
                scores.masked_fill_(without[rows], -torch.inf)
            top, places = scores.topk(min(count, scores.shape[1]), dim=1)
            best = torch.cat([best, top], dim=1)
            best_keys = torch.cat([best_keys, torch.from_numpy(shard.keys[rows])[places]], dim=1)
            if best.shape[1] > 4 * count:
                best, best_keys = _best(best, best_keys, count)
    best, best_keys = _best(best, best_keys, count)
    for scores, keys in zip(best, best_keys, strict=True):
        is_hit = scores > -torch.inf
        yield Found(keys[is_hit].tolist(), scores[is_hit].tolist())


def _scores(queries: Tensor, vectors: Tensor) -> Tensor:
    """(Q, E) float32, (N, E) float16 -> (Q, N) float32"""
    scores = torch.empty(len(queries), len(vectors))
    size = max(1, BLOCK_BYTES // (4 * vectors.shape[1]))
    wide = torch.empty(min(size, len(vectors)), vectors.shape[1])
    for start in range(0, len(vectors), size):
        rows = vectors[start : start + size]
        block = wide[: len(rows)].copy_(rows)
        torch.mm(queries, block.T, out=scores[:, start : start + len(rows)])
    return scores


def _best(scores: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row, of equal ones the smaller key first."""
    by_key = keys.argsort(dim=1)
    scores, keys = scores.gather(1, by_key), keys.gather(1, by_key)
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    return scores.gather(1, order), keys.gather(1, order)
