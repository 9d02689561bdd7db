"""Reads thousands of damaged files of every kind, and counts what becomes of them.

python -m tests.benchmarks.fuzz --count 2000 --data ../shared/data
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.fuzz_kinds import kinds
from tests.fuzzing import OUTCOMES, fuzz


def main(
    count: Annotated[int, typer.Option(help="Inputs, shared out over the kinds.")] = 2000,
    seed: int = 0,
    data: Annotated[Path | None, typer.Option(help="Real files to damage too.")] = None,
    only: Annotated[str, typer.Option(help="Kinds with this in their name.")] = "",
    keep: Annotated[Path | None, typer.Option(help="Where inputs that went wrong are kept.")] = None,
) -> None:
    """Exits with 1 where an input did anything but be read or be refused in words."""
    started = time.monotonic()
    chosen = [kind for kind in kinds(data) if only in kind.name]
    with tempfile.TemporaryDirectory(prefix="vactk-fuzz-") as folder:
        report = fuzz(chosen, -(-count // len(chosen)), seed, Path(folder), keep)
    table = Table(title=f"{len(report.results):,} inputs, seed {seed}, {time.monotonic() - started:.0f} s")
    for column in ("kind", *OUTCOMES, "longest, s"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for kind in chosen:
        slowest = max(result.seconds for result in report.results if result.kind == kind.name)
        counts = (str(report.count(kind.name, outcome)) for outcome in OUTCOMES)
        table.add_row(kind.name, *counts, f"{slowest:.1f}")
    Console(width=120).print(table)
    for result in report.wrong[:20]:
        typer.echo(f"{result.kind} {result.number} ({result.source}): {result.outcome}\n{result.detail}")
    raise typer.Exit(1 if report.wrong else 0)


if __name__ == "__main__":
    typer.run(main)
