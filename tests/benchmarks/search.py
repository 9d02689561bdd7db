"""Search over a large index of drawn vectors: latency, memory and build time, against torch and faiss.

    python -m tests.benchmarks.search --entries 1000000 --dim 512
    python -m tests.benchmarks.search --entries 10000 --no-approximate

The vectors lie around 20,000 centres, which is kinder to approximate search than videos may be, and the queries
around the same. Every way of searching has a process of its own, whose peak of memory over what it held before it
opened the vectors counts; pages of mapped files are a part of it. Latencies are medians over single queries.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer

from tests.benchmarks.m2clip_step import peak_memory
from vactk.data.records import Record
from vactk.retrieval.hits import SearchFilter
from vactk.retrieval.index.file_identity import FileState
from vactk.retrieval.index.sqlite_store import LocalStore
from vactk.retrieval.index.store import IndexItem, IndexMetadata, VideoEmbeddings

CENTRES = 20_000
NOISE = 1.0  # length of what is added to a centre of length 1
CHUNK = 50_000
QUERIES = 50
TOP = 10
NOTHING = SearchFilter()


def main(
    entries: int = 1_000_000,
    dim: int = 512,
    threads: int = 2,
    approximate: Annotated[bool, typer.Option(help="Build and measure faiss's approximate index.")] = True,
    folder: Annotated[Path | None, typer.Option(help="Where the index is made, or already is.")] = None,
    way: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Build the index, then measure each way of searching it."""
    torch.set_num_threads(threads)
    if way:
        print(json.dumps(measure(WAYS[way], folder or Path(), dim, threads)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary)
        if not (folder / "index").exists():
            build(folder, entries, dim, approximate)
        results = {}
        for name in WAYS:
            if name == "approximate" and not approximate:
                continue
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.search",
                "--folder",
                str(folder),
                "--way",
                name,
            ]
            command += ["--dim", str(dim), "--threads", str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[name] = json.loads(done.stdout)
        print(f"{entries:,} x {dim}, {threads} threads, top {TOP}, {QUERIES} queries one at a time")
        print(
            f"{'':22}{'ms/query':>9} {'ratio':>6} {'10 at once':>11} {'opened in s':>12} {'MiB':>7}  recall@10"
        )
        for name, found in results.items():
            ratio = found["ms"] / results["torch, float32"]["ms"]
            recall = recall_of(found["keys"], results["exact"]["keys"])
            print(
                f"{name:22}{found['ms']:9.1f} {ratio:6.2f} {found['ms_of_ten']:11.1f} {found['opened_s']:12.2f} "
                f"{found['peak'] / 2**20:7,.0f}  {recall:.3f}"
            )


def build(folder: Path, entries: int, dim: int, approximate: bool) -> None:
    """An index as `vactk retrieve --add` leaves it, and the same vectors as plain arrays."""
    started = time.perf_counter()
    facts = IndexMetadata(dim=dim, fingerprint="", model={}, reading={})
    store = LocalStore(folder / "index", "approximate" if approximate else "exact")
    store.begin(facts)
    plain = np.lib.format.open_memmap(folder / "plain.npy", "w+", np.float32, (entries, dim))
    for start in range(0, entries, CHUNK):
        vectors = drawn(min(CHUNK, entries - start), dim, seed=start)
        plain[start : start + len(vectors)] = vectors.half().float().numpy()
        store.write([as_video(start + n, vector[None]) for n, vector in enumerate(vectors)])
    print(f"written in {time.perf_counter() - started:.0f} s, drawing the vectors included")
    started = time.perf_counter()
    store.finish(drawn(200, dim, seed=-1), print)
    store.close()
    print(f"merged and prepared in {time.perf_counter() - started:.0f} s")


def as_video(number: int, vectors: torch.Tensor) -> VideoEmbeddings:
    """A video of a single window."""
    item = IndexItem(record=Record(video=Path(f"/videos/{number:08}.mp4")), state=FileState(1, 1))
    return VideoEmbeddings(item=item, spans=[(0.0, 10.0)], vectors=vectors)


def drawn(count: int, dim: int, seed: int) -> torch.Tensor:
    """(count, dim) unit vectors around centres that are always the same."""
    centres = F.normalize(torch.randn(CENTRES, dim, generator=torch.Generator().manual_seed(0)), dim=-1)
    generator = torch.Generator().manual_seed(seed + 10**6)
    chosen = centres[torch.randint(CENTRES, (count,), generator=generator)]
    noise = torch.randn(count, dim, generator=generator) * (NOISE / dim**0.5)
    return F.normalize(chosen + noise, dim=-1)


def measure(open_way: Callable[[Path], Any], folder: Path, dim: int, threads: int) -> dict[str, Any]:
    """Latency, results, and how much memory they took."""
    queries = drawn(QUERIES, dim, seed=-2)
    import faiss

    faiss.omp_set_num_threads(threads)
    before = resident()
    peak_memory()
    started = time.perf_counter()
    search = open_way(folder)
    opened_s = time.perf_counter() - started
    search(queries[:1])
    times, keys = [], []
    for query in queries:
        started = time.perf_counter()
        keys += search(query[None])
        times.append(time.perf_counter() - started)
    of_ten = []
    for _ in range(5):
        started = time.perf_counter()
        search(queries[:10])
        of_ten.append(time.perf_counter() - started)
    return {
        "ms": 1000 * statistics.median(times),
        "ms_of_ten": 1000 * statistics.median(of_ten),
        "opened_s": opened_s,
        "peak": peak_memory() - before,
        "keys": keys,
    }


def resident() -> int:
    """Bytes that this process holds now."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


def recall_of(found: list[list[int]], true: list[list[int]]) -> float:
    """The share of the true nearest that were found."""
    return statistics.fmean(len({*f} & {*t}) / len(t) for f, t in zip(found, true, strict=True))


def by_index(method: Any) -> Callable[[Path], Any]:
    """vactk's own, as `vactk retrieve --query` searches, without the model."""

    def open_index(folder: Path) -> Any:
        store = LocalStore(folder / "index", method)
        return lambda queries: [one.keys for one in store.nearest(queries, TOP, NOTHING)]

    return open_index


def by_torch(folder: Path) -> Any:
    """A plain product with all vectors in memory, and topk."""
    vectors = torch.from_numpy(np.load(folder / "plain.npy"))
    return lambda queries: (1 + (queries @ vectors.T).topk(TOP).indices).tolist()


def by_faiss(folder: Path) -> Any:
    """faiss's flat index."""
    import faiss

    vectors = np.load(folder / "plain.npy", mmap_mode="r")
    index = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(vectors), CHUNK):
        index.add(np.ascontiguousarray(vectors[start : start + CHUNK]))
    return lambda queries: (1 + index.search(queries.numpy(), TOP)[1]).tolist()


WAYS: dict[str, Callable[[Path], Any]] = {
    "torch, float32": by_torch,
    "faiss flat, float32": by_faiss,
    "exact": by_index("exact"),
    "approximate": by_index("auto"),
}


if __name__ == "__main__":
    typer.run(main)
