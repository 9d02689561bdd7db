"""Kills a training run with SIGKILL at random moments, resumes it, and compares the weights with a whole run's.

python -m tests.benchmarks.kill_resume --kills 5
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import typer
from safetensors.torch import load_file


def main(kills: int = 5, epochs: float = 2.0, seed: int = 0) -> None:
    """Each kill comes after a random share of the time that the whole run took, until all are spent."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vactk", "train", "--dataset", "shapes", "--epochs", str(epochs)]
        command += ["run.save_every=0.05", "--json", "--resume", "--output"]
        whole = Path(folder, "whole")
        started = time.monotonic()
        finish([*command, str(whole)])
        seconds = time.monotonic() - started
        typer.echo(f"whole run: {seconds:.0f} s")
        killed = runs = 0
        while killed < kills:
            runs += 1
            parted = Path(folder, f"run-{runs}")
            while killed < kills and kill_after(rng.uniform(0.2, 0.6) * seconds, [*command, str(parted)]):
                killed += 1
                states = sorted(path.name for path in (parted / "states").glob("step-*.pt"))
                typer.echo(f"kill {killed}, run {runs}: last state {states[-1] if states else 'none'}")
            finish([*command, str(parted)])
            if not same_weights(whole, parted):
                typer.echo(f"run {runs}: final weights DIFFER")
                raise typer.Exit(1)
            typer.echo(f"run {runs}: final weights are equal to the last bit")


def finish(command: list[str]) -> None:
    """Run to the end."""
    subprocess.run(command, check=True, capture_output=True)


def kill_after(wait_s: float, command: list[str]) -> bool:
    """Start a command and kill it after `wait_s`, unless it ends before: whether it was killed."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=wait_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def same_weights(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same model, bit by bit."""
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


if __name__ == "__main__":
    typer.run(main)
