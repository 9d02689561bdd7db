"""Benchmarks at their full size, with drawn videos: commands as typed, with the time and memory of each.

    python -m tests.benchmarks.mock_datasets [hmdb51] [ucf101] [msrvtt] [--annotations DIR]

Names and labels are those of the official lists where --annotations has them, else made up in the official form and
number. Every video is one of a few drawn ones of 12 frames of 48 by 64, under its own name. The toy CLIP, 2 frames
of one view, and a fiftieth of an epoch keep it short: this measures how lists of this length are handled.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.video.conftest import write_video
from vactk.data.annotations.classes import known_classes

NUM_DRAWN = 12
READING = "--frames 2 --views 1 --workers 1 --processes 1"
TRAINING = f"{READING} --backbone toy --batch-size 16 --epochs 0.02"
CLASSES = (
    "data prepare NAME --data-root ROOT",
    f"train --dataset NAME --data-root ROOT {TRAINING} run.accumulate=1 --output runs/adapted",
    f"finetune --dataset NAME --data-root ROOT {TRAINING} average.start_epoch=0 --output runs/tuned",
    *(
        f"zeroshot --protocol NAME/{ep} --data-root ROOT {READING} --checkpoint runs/adapted"
        for ep in ("ep1", "ep2", "ep3")
    ),
)
CAPTIONS = (
    "data prepare NAME --data-root ROOT",
    f"train --dataset NAME --data-root ROOT {TRAINING} --output runs/captions",
    f"retrieve --evaluate --protocol msrvtt/1k-a --data-root ROOT {READING} --checkpoint runs/captions",
    'retrieve --query "a man is singing" --data-root ROOT --frames 2 --checkpoint runs/captions --workers 1 --yes',
    'retrieve --query "a dog is running" --data-root ROOT --frames 2 --checkpoint runs/captions',
)
COMMANDS = {"hmdb51": CLASSES, "ucf101": CLASSES, "msrvtt": CAPTIONS}


def make_hmdb51(root: Path, annotations: Path) -> Iterable[str]:
    """Write the lists of three splits; yield the videos' names, with folders."""
    lists = root / "testTrainMulti_7030_splits"
    official = annotations / "hmdb51" / lists.name
    if official.is_dir():
        shutil.copytree(official, lists)
    else:
        lists.mkdir()
        for number, label in enumerate(known_classes("hmdb51")):
            count = 133 if number < 34 else 132  # 6,766 in all
            names = [f"Film_{n}_{label}_u_nm_np1_ba_goo_{n}.avi" for n in range(count)]
            for split in range(3):
                flags = [(n - 30 * split) % count for n in range(count)]
                lines = [
                    f"{name} {2 if flag < 30 else 1 if flag < 100 else 0} "
                    for name, flag in zip(names, flags, strict=True)
                ]
                (lists / f"{label}_test_split{split + 1}.txt").write_text("\n".join(lines) + "\n")
    for path in sorted(lists.glob("*_test_split1.txt")):
        label = path.name.removesuffix("_test_split1.txt")
        yield from (f"videos/{label}/{line.split()[0]}" for line in path.read_text().splitlines() if line)


def make_ucf101(root: Path, annotations: Path) -> Iterable[str]:
    """Write the lists of three splits; yield the videos' names, with folders."""
    lists = root / "ucfTrainTestlist"
    official = annotations / "ucf101" / lists.name
    if official.is_dir():
        shutil.copytree(official, lists)
    else:
        lists.mkdir()
        labels = known_classes("ucf101")
        (lists / "classInd.txt").write_text("".join(f"{n} {label}\n" for n, label in enumerate(labels, 1)))
        for split in range(3):
            train, test = [], []
            for number, label in enumerate(labels, 1):
                for n in range(132 if number <= 89 else 131):  # 13,320 in all
                    video = f"{label}/v_{label}_g{n // 6 + 1:02d}_c{n % 6 + 1:02d}.avi"
                    held_out = n // 38 == split
                    (test if held_out else train).append(video if held_out else f"{video} {number}")
            (lists / f"trainlist0{split + 1}.txt").write_text("\n".join(train) + "\n")
            (lists / f"testlist0{split + 1}.txt").write_text("\n".join(test) + "\n")
    for path in (lists / "trainlist01.txt", lists / "testlist01.txt"):
        yield from (f"UCF-101/{line.split()[0]}" for line in path.read_text().splitlines() if line)


def make_msrvtt(root: Path, annotations: Path) -> Iterable[str]:
    """Write 20 captions of 10,000 videos and the list of 1k-A's test; yield the videos' names, with folders."""
    listing = root / "MSRVTT_JSFUSION_test.csv"
    official = annotations / "msrvtt" / listing.name
    if official.is_file():
        shutil.copy(official, listing)
    else:
        rows = (f"ret{n},msr{n},video{9000 + n},a person does thing number {n}" for n in range(1000))
        listing.write_text("\n".join(["key,vid_key,video_id,sentence", *rows]) + "\n")
    parts = ["train"] * 6513 + ["validate"] * 497 + ["test"] * 2990
    videos = [
        {"video_id": f"video{n}", "id": n, "split": part, "start time": 0.0, "end time": 1.0}
        for n, part in enumerate(parts)
    ]
    sentences = [
        {"sen_id": 20 * n + k, "video_id": f"video{n}", "caption": f"someone does thing {k} of {n}"}
        for n in range(len(parts))
        for k in range(20)
    ]
    content = {"info": {}, "videos": videos, "sentences": sentences}
    (root / "MSRVTT_data.json").write_text(json.dumps(content))
    yield from (f"videos/all/{video['video_id']}.mp4" for video in videos)


MAKERS = {"hmdb51": make_hmdb51, "ucf101": make_ucf101, "msrvtt": make_msrvtt}


def make_videos(root: Path, names: Iterable[str]) -> int:
    """Link drawn videos under the names; how many there are."""
    count = 0
    for count, name in enumerate(names, 1):
        path = root / name
        drawn = root.parent / f"drawn{count % NUM_DRAWN}{path.suffix}"
        if not drawn.exists():
            write_video(
                drawn,
                num_frames=12 + count % NUM_DRAWN,
                codec="mpeg4" if path.suffix == ".avi" else "libx264",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(drawn, path)
    return count


def measure(command: str, folder: Path) -> tuple[float, float, float]:
    """Seconds, seconds of processor time, and MiB of the largest process of a command."""
    log = folder / "log.txt"
    environment = os.environ | {"VACTK_CACHE": str(folder / "cache"), "PYTHONPATH": str(Path.cwd())}
    started = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "vactk", *shlex.split(command)],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"vactk {command}\n{log.read_text()}")
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MAKERS)}; default: all")
    parser.add_argument("--annotations", type=Path, default=Path("../shared/data/annotations"))
    options = parser.parse_args()
    for name in options.names or MAKERS:
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary) / name
            root.mkdir()
            started = time.monotonic()
            count = make_videos(root, MAKERS[name](root, options.annotations))
            print(f"{name}: {count:,} videos made in {time.monotonic() - started:.1f} s", flush=True)
            for command in COMMANDS[name]:
                typed = command.replace("NAME", name).replace("ROOT", name)
                seconds, processor, memory = measure(typed, Path(temporary))
                print(f"{seconds:7.1f} s {processor:7.1f} s CPU {memory:6.0f} MiB  vactk {typed}", flush=True)


if __name__ == "__main__":
    main()
