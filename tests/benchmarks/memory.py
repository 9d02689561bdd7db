"""Resident memory over a long run on shapes: does it grow?

python -m tests.benchmarks.memory --steps 2000
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import psutil
import typer

from vactk.config import build, merge, parse_overrides
from vactk.recipes import read_recipe
from vactk.train.recipe import Recipe
from vactk.train.run import train

EVERY = 20  # steps between readings
SETTLED = 600  # steps until all that is made once has been made, by three evaluations too


class Meter:
    """A reporter that reads the memory of this process and of its workers."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.readings: list[tuple[int, float, float]] = []
        self.process = psutil.Process()

    def message(self, text: str) -> None:
        typer.echo(text, err=True)

    def progress(self, what: str):
        return lambda done, total: None

    def step(self, step, total_steps, epoch, values) -> None:
        if step % EVERY == 0:
            workers = sum(child.memory_info().rss for child in self.process.children(recursive=True))
            self.readings.append((step, self.process.memory_info().rss / 2**20, workers / 2**20))
        if step % 200 == 0:
            typer.echo(
                f"step {step}: {self.readings[-1][1]:.0f} MiB, workers {self.readings[-1][2]:.0f} MiB",
                err=True,
            )


def main(steps: int = 2000, batch_size: int = 4, recipe: str = "m2clip-shapes", workers: int = 1) -> None:
    """Prints the slope of a line through the readings after the first steps, in MiB per 1,000 steps."""
    epochs = steps * batch_size / 768
    settings = [
        f"run.batch_size={batch_size}",
        f"run.epochs={epochs}",
        "data.num_frames=4",
        f"data.workers={workers}",
    ]
    settings += ["run.save_every=1", "run.eval_every=1"]
    meter = Meter(steps)
    with tempfile.TemporaryDirectory() as folder:
        chosen = build(Recipe, merge(read_recipe(recipe), parse_overrides(settings)))
        train(chosen, Path(folder, "run"), resume=False, reporter=meter)
    table = np.array([reading for reading in meter.readings if reading[0] > SETTLED])
    for name, column in (("process", 1), ("workers", 2)):
        slope = np.polyfit(table[:, 0], table[:, column], 1)[0] * 1000
        first, last = table[0, column], table[-1, column]
        typer.echo(
            f"{name}: {first:.1f} MiB at step {SETTLED + EVERY}, {last:.1f} at the end, {slope:+.2f} per 1,000"
        )


if __name__ == "__main__":
    typer.run(main)
