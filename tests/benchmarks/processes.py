"""Trains on one, two and three processes, and compares weights, metrics and time.

python -m tests.benchmarks.processes --epochs 1
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file


def main(
    settings: Annotated[list[str] | None, typer.Argument(help="Further settings of the recipe.")] = None,
    command: str = "train",
    epochs: float = 1.0,
    worlds: str = "1,2,3",
    batch_size: int = 24,
) -> None:
    """The same global batch each time. Exits with 1 where metrics differ."""
    counts = [int(world) for world in worlds.split(",")]
    table = Table(title=f"vactk {command}, {epochs:g} epochs of shapes, batches of {batch_size}")
    for column in ("processes", "whole run, s", "videos/s", "largest difference of weights", "metrics"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, str(counts[0]))
        same = True
        for world in counts:
            run = Path(folder, str(world))
            started = time.monotonic()
            full = [sys.executable, "-m", "vactk", command, "--dataset", "shapes", "--epochs", str(epochs)]
            full += ["--batch-size", str(batch_size), "--processes", str(world), "--output", str(run)]
            subprocess.run([*full, *(settings or [])], check=True, capture_output=True)
            seconds = time.monotonic() - started
            equal = result(run)["metrics"] == result(first)["metrics"]
            same = same and equal
            table.add_row(
                str(world),
                f"{seconds:.0f}",
                f"{result(run)['videos_per_s']:.1f}",
                f"{difference(first, run):.1e}",
                "equal" if equal else "DIFFER",
            )
    Console().print(table)
    raise typer.Exit(0 if same else 1)


def result(run: Path) -> dict:
    """result.json of a run."""
    return json.loads((run / "result.json").read_text())


def difference(one: Path, other: Path) -> float:
    """The largest between the weights of two runs."""
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    return max(float((first[name] - second[name]).abs().max()) for name in first)


if __name__ == "__main__":
    typer.run(main)
