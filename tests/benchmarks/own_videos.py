"""Training on folders of one's own videos: untouched defaults beside the best of a few settings chosen by hand.

    python -m tests.benchmarks.own_videos --data ../shared/data --seeds 3

Cuts pieces out of real videos into six folders with train/ and test/, where pieces of one video are of one class,
and runs `vactk train` and `vactk finetune` with the toy CLIP. Settings by hand: the recipes for `shapes` with two
learning rates each, without a validation part, chosen by the test accuracy itself. Prints top-1 by similarity, in
percent.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import typer

from vactk.files.atomic import write_json
from vactk.video.encode import H264Stream

KINETICS, UCF, OTHER = "kinetics400/", "ucf101/v_", "other/"
OUTDOORS = (UCF + "SoccerJuggling_g23_c01.avi", UCF + "Rowing_g16_c03.avi", OTHER + "internvid_example1.mp4")
CLOSE_UP = (
    KINETICS + "playing_guitar.mp4",
    KINETICS + "mmaction2_demo_arm_wrestling.mp4",
    UCF + "ApplyEyeMakeup_g01_c01.avi",
)
EIGHT = {
    "pancake": (KINETICS + "flipping_a_pancake.mkv",),
    "baseball": (KINETICS + "hitting_baseball.mp4",),
    "wrestling": (KINETICS + "mmaction2_demo_arm_wrestling.mp4",),
    "guitar": (KINETICS + "playing_guitar.mp4",),
    "concert": (OTHER + "applausing.mp4",),
    "snow": (OTHER + "internvid_example1.mp4",),
    "lizard": (OTHER + "languagebind_1.mp4",),
    "makeup": (UCF + "ApplyEyeMakeup_g01_c01.avi",),
}
SIGNS = {
    name: (f"custom_asl/{name}.mkv",) for name in ("again", "no", "book", "school")
}  # two signers, two signs each


class Folder(NamedTuple):
    """Classes with their sources, and the number of training clips of each; `alike`: short, overlapping pieces."""

    classes: dict[str, tuple[str, ...]]
    counts: tuple[int, ...]
    num_test: int
    alike: bool = False


def first(count: int) -> dict[str, tuple[str, ...]]:
    """Return the first `count` of the eight classes."""
    return dict(list(EIGHT.items())[:count])


FOLDERS = {
    "4x12": Folder(first(4), (12,) * 4, 8),
    "2x12 families": Folder({"outdoors": OUTDOORS, "close up": CLOSE_UP}, (12, 12), 12),
    "4x6": Folder(dict(list(EIGHT.items())[4:]), (6,) * 4, 8),
    "8x40": Folder(EIGHT, (40,) * 8, 8),
    "10:1": Folder(first(4), (40, 40, 12, 4), 8),
    "alike": Folder(SIGNS, (12,) * 4, 8, alike=True),
}
HAND = {
    "train": [f"--recipe=m2clip-shapes optim.lr={lr}" for lr in (1e-3, 5e-3)],
    "finetune": [f"--recipe=openvclip-shapes optim.lr={lr}" for lr in (3e-4, 1e-3)],
}
HAND_STEPS, HAND_BATCH = 150, 16


def make_folder(root: Path, name: str, data: Path) -> Path:
    """Cut the clips of a folder: training ones out of the first part of each source, test ones out of the last."""
    folder, path = FOLDERS[name], root / name.replace(" ", "-").replace(":", "-")
    if (path / "made.json").exists():
        return path
    rng = random.Random(name)
    for (label, sources), count in zip(folder.classes.items(), folder.counts, strict=True):
        for split, num_clips in (("train", count), ("test", folder.num_test)):
            for number in range(num_clips):
                source = sources[number % len(sources)]
                stem = Path(source).stem.replace("_", "")
                target = path / split / label / f"{stem}-{number:03d}.mp4"
                cut_clip(data / "videos" / source, target, split, folder.alike, rng)
    write_json(path / "made.json", {"folder": name})
    return path


def cut_clip(source: Path, target: Path, split: str, alike: bool, rng: random.Random) -> None:
    """Encode a piece, with a crop of its own: a second or two, or most of a short video that others resemble."""
    frames, rate = read_frames(source)
    if alike:
        length = round(0.65 * len(frames))
        low, high = (0.0, 0.15) if split == "train" else (0.2, 0.3)
    else:
        length = round(rng.uniform(1.0, 2.0) * rate)
        low, high = (
            (0.0, 0.6 - length / len(frames)) if split == "train" else (0.65, 1 - length / len(frames))
        )
    start = round(rng.uniform(low, max(low, high)) * len(frames))
    height, width = frames[0].shape[:2]
    share = rng.uniform(0.8, 1.0)
    top, left = (round(rng.uniform(0, (1 - share) * side)) for side in (height, width))
    rows, columns = (
        slice(at, at + round(share * side) // 2 * 2) for at, side in ((top, height), (left, width))
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    piece = frames[start : start + length]
    with av.open(str(target), "w") as output:
        size = piece[0][rows, columns].shape[:2]
        stream = H264Stream(output, (size[0], size[1]), fps=rate, crf=23, keyframe_every=50)
        for number, frame in enumerate(piece):
            stream.add(frame[rows, columns], number / rate)
        stream.close()


@lru_cache(maxsize=3)
def read_frames(path: Path) -> tuple[list[np.ndarray], float]:
    """Decode a whole video at a short side of 240 pixels."""
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        scale = 240 / min(stream.width, stream.height)
        width, height = (round(side * scale) // 2 * 2 for side in (stream.width, stream.height))
        frames = [
            frame.to_ndarray(format="rgb24", width=width, height=height) for frame in container.decode(stream)
        ]
        return frames, float(stream.average_rate or 25)


class Outcome(NamedTuple):
    """The result of one run."""

    top1: float
    steps: int
    cpu_s: float


def run(command: str, folder: Path, output: Path, seed: int, *settings: str) -> Outcome:
    """Train on the folder, unless `output` holds the result."""
    record = output.with_suffix(".json")
    if not record.exists():
        arguments = [
            command,
            "--dataset",
            str(folder),
            "--backbone",
            "toy",
            "--workers",
            "0",
            "--seed",
            str(seed),
        ]
        called = [sys.executable, "-m", "vactk", *arguments, *settings, "--output", str(output), "--json"]
        before = os.times()
        done = subprocess.run(called, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        after = os.times()
        (test,) = json.loads(done.stdout)["metrics"].values()
        lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
        steps = max(line["step"] for line in lines)
        seconds = after.children_user - before.children_user + after.children_system - before.children_system
        write_json(record, {"top1": test["top1"], "steps": steps, "cpu_s": seconds})
    return Outcome(**json.loads(record.read_text()))


def by_hand(command: str, folder: Path, output: Path) -> float:
    """Return the best test accuracy of the settings chosen by hand."""
    num_videos = sum(1 for _ in (folder / "train").rglob("*.mp4"))
    found = []
    for number, settings in enumerate(HAND[command]):
        epochs = f"run.epochs={HAND_STEPS * HAND_BATCH / num_videos}"
        chosen = [*settings.split(), epochs, f"--batch-size={HAND_BATCH}", "run.save_every=1000"]
        found.append(run(command, folder, output.with_name(f"{output.name}-hand-{number}"), 0, *chosen).top1)
    return max(found)


def main(
    data: Path = Path("../shared/data"),
    work: Path | None = None,
    seeds: int = 1,
    folders: str = ",".join(FOLDERS),
    commands: str = "train,finetune",
    hand: bool = True,
) -> None:
    """Print a row per folder and command; results found under --work are not measured again."""
    root = work or Path(tempfile.mkdtemp())
    typer.echo(
        f"{'folder':14} {'command':9} {'chance':>6} {'by hand':>7}  default, by seed: top-1 (steps, CPU s)"
    )
    for name in folders.split(","):
        path = make_folder(root, name, data)
        for command in commands.split(","):
            output = root / f"{path.name}-{command}"
            best = f"{by_hand(command, path, output):7.1f}" if hand else f"{'-':>7}"
            found = [
                run(command, path, output.with_name(f"{output.name}-{seed}"), seed) for seed in range(seeds)
            ]
            listed = "  ".join(f"{one.top1:.1f} ({one.steps}, {one.cpu_s:.0f})" for one in found)
            chance = 100 / len(FOLDERS[name].classes)
            typer.echo(f"{name:14} {command:9} {chance:6.1f} {best}  {listed}")


if __name__ == "__main__":
    typer.run(main)
