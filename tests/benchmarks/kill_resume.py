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
    """Each kill comes after a random share of the time that the whole run took; one run takes all of them."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, parted = Path(folder, "whole"), Path(folder, "parted")
        command = [sys.executable, "-m", "vactk", "train", "--dataset", "shapes", "--epochs", str(epochs)]
        command += ["run.save_every=0.05", "--json"]
        started = time.monotonic()
        subprocess.run([*command, "--output", str(whole)], check=True, capture_output=True)
        seconds = time.monotonic() - started
        typer.echo(f"whole run: {seconds:.0f} s")
        killed = 0
        while killed < kills:
            process = subprocess.Popen(
                [*command, "--output", str(parted), "--resume"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_s = rng.uniform(0.1, 0.7) * seconds
            try:
                process.wait(timeout=wait_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
                states = sorted(path.name for path in (parted / "states").glob("*.pt"))
                typer.echo(f"kill {killed} after {wait_s:.1f} s; states: {', '.join(states) or 'none'}")
            else:
                typer.echo("the run had ended before the kill")
                break
        subprocess.run([*command, "--output", str(parted), "--resume"], check=True, capture_output=True)
        one, other = (load_file(path / "model.safetensors") for path in (whole, parted))
        same = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        typer.echo(f"{killed} kills: final weights {'are equal to the last bit' if same else 'DIFFER'}")
        raise typer.Exit(0 if same else 1)


if __name__ == "__main__":
    typer.run(main)
