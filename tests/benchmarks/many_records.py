"""A list of thousands of videos: how long until its records are there, until the first step, and what it takes.

python -m tests.benchmarks.many_records --videos 10000
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import typer

from vactk.data.shapes import load_shapes

READ = """
import sys, time, resource
import vactk.data.datasets
from vactk.data.datasets import find_dataset
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.monotonic()
dataset = find_dataset(sys.argv[1])
records = sum(len(dataset.load(split).records) for split in (dataset.train_split, *dataset.eval_splits))
seconds = time.monotonic() - started
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(f"{records} records in {seconds:.2f} s, {grown / 1024:.1f} MiB more at the peak")
"""


def main(videos: int = 10_000) -> None:
    """Small clips under many names: links, so that the disk holds few."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = load_shapes("train")
        lines = ["path,label"]
        for number in range(videos):
            record = made.records[number % len(made.records)]
            path = folder / f"part{number % 97:02d}" / f"{number:06d}.mp4"
            path.parent.mkdir(exist_ok=True)
            os.link(record.video, path) if same_disk(record.video, folder) else path.symlink_to(record.video)
            lines.append(f"{path.relative_to(folder)},{made.classes[record.label or 0]}")
        listing = folder / "list.csv"
        listing.write_text("\n".join(lines) + "\n")
        found = subprocess.run(
            [sys.executable, "-c", READ, str(listing)], capture_output=True, text=True, check=True
        )
        typer.echo(f"record table: {found.stdout.strip()}")
        few = folder / "few.csv"
        few.write_text("\n".join(lines[:101]) + "\n")
        for path, what in ((few, "100"), (listing, f"{videos:,}")):
            seconds, peak = first_step(path, folder / f"run-{path.stem}")
            typer.echo(
                f"first step of a run on {what} videos: after {seconds:.1f} s, {peak:.0f} MiB resident"
            )


def first_step(listing: Path, run: Path) -> tuple[float, float]:
    """Seconds from the start of the command to its first step, and its resident memory then, in MiB."""
    command = [sys.executable, "-m", "vactk", "train", "--dataset", str(listing), "--recipe", "m2clip-shapes"]
    command += ["--batch-size", "4", "--output", str(run), "--workers", "1"]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not (run / "metrics.jsonl").exists():
            if process.poll() is not None:
                raise SystemExit(process.stderr.read() if process.stderr else "it ended")
            time.sleep(0.05)
        seconds, memory = time.monotonic() - started, psutil.Process(process.pid).memory_info().rss / 2**20
        process.kill()
    return seconds, memory


def same_disk(one: Path, other: Path) -> bool:
    """Whether a hard link between the two can be made."""
    return one.stat().st_dev == other.stat().st_dev


if __name__ == "__main__":
    typer.run(main)
