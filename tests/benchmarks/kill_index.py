"""Kills `vactk retrieve --add` with SIGKILL at random moments, goes on, and compares the index with a whole run's.

python -m tests.benchmarks.kill_index --kills 5
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

import torch
import typer

from tests.benchmarks.kill_resume import finish, kill_after
from vactk.data.shapes import load_shapes
from vactk.retrieval.hits import SearchFilter
from vactk.retrieval.index.sqlite_store import LocalStore
from vactk.retrieval.index.store import IndexEntry

QUERIES = 50


def main(kills: int = 5, copies: int = 3, seed: int = 0) -> None:
    """An index of shapes' videos in windows, each linked `copies` times, is killed until the kills are spent."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(folder, "videos")
        videos.mkdir()
        for copy in range(copies):
            for record in load_shapes("train").records:
                (videos / f"{copy}-{record.video.name}").symlink_to(record.video)
        command = [sys.executable, "-m", "vactk", "retrieve", "--add", str(videos), "--backbone", "toy"]
        command += ["--window", "0.5", "--stride", "0.25", "--json", "--index"]
        whole = Path(folder, "whole")
        started = time.monotonic()
        finish([*command, str(whole)])
        seconds = time.monotonic() - started
        typer.echo(f"whole index: {seconds:.0f} s, {LocalStore(whole).counts().entries:,} entries")
        killed = runs = 0
        while killed < kills:
            runs += 1
            parted = Path(folder, f"index-{runs}")
            while killed < kills and kill_after(rng.uniform(0.3, 0.95) * seconds, [*command, str(parted)]):
                killed += 1
                there = LocalStore(parted).counts().videos if (parted / "index.sqlite").exists() else 0
                typer.echo(f"kill {killed}, index {runs}: {there:,} videos are there")
            finish([*command, str(parted)])
            if not same_index(whole, parted):
                typer.echo(f"index {runs} DIFFERS")
                raise typer.Exit(1)
            typer.echo(f"index {runs}: the same files, the same records, the same hits")


def same_index(one: Path, other: Path) -> bool:
    """Equal vectors to the last bit, equal records, and equal hits."""
    files = [{path.name: path.read_bytes() for path in folder.glob("vectors-*")} for folder in (one, other)]
    stores = [LocalStore(folder) for folder in (one, other)]
    known = [dict(store.known()) for store in stores]
    return files[0] == files[1] and known[0] == known[1] and hits_of(stores[0]) == hits_of(stores[1])


def hits_of(store: LocalStore) -> list[list[tuple[IndexEntry, float]]]:
    """The nearest entries of drawn queries, with their scores."""
    assert store.facts is not None
    queries = torch.randn(QUERIES, store.facts.dim, generator=torch.Generator().manual_seed(0))
    hits = []
    for found in store.nearest(queries, 10, SearchFilter()):
        entries = store.entries(found.keys)
        hits.append([(entries[key], score) for key, score in zip(found.keys, found.scores, strict=True)])
    return hits


if __name__ == "__main__":
    typer.run(main)
