"""Answers over time on joined clips of `shapes`, whose times are known: F1, time, and memory.

    python -m tests.benchmarks.timeline          # windows and settings on some drawings, the choice on others
    python -m tests.benchmarks.timeline --long   # time beside one sequential decode, memory over 20 and 120 minutes

Each video is H.264: stretches of clips of one object, with stretches of objects that are no label between some of
them. The labels are objects that the toy CLIP knows from stills. A segment is right if it overlaps a true one of
its label by an intersection over union of 0.5, each true one once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from numpy.typing import NDArray

import vactk
from vactk.data.shapes.clips import load_shapes
from vactk.data.windows import WindowConfig
from vactk.evaluate.timeline import CHANGE_COST, Segment, WindowScores, make_timeline, unrelated_phrases
from vactk.video.reader import open_video

FPS = 12
KNOWN = 6  # objects that are labels; the others are shown between them
VIDEO_S = 120.0
TUNING, REPORT = range(4), range(100, 110)  # seeds of drawings
WINDOWS = ((1, 0.25), (2, 0.5), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4))
COSTS = (0.0, 1.0, 2.0, 4.0, 8.0)
LABELS = ("star", "key", "tree")  # of the long videos
MEASURE = r"""
import json, re, sys, vactk
model = vactk.load_model("toy", device="cpu", settings={"data.workers": 0})
found = vactk.Predictor(model, sys.argv[2].split(",")).segments(sys.argv[1], window=4, stride=1)
peak_mib = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({"peak_mib": peak_mib, "minutes": found[0].duration_s / 60}))
"""


class Truth(NamedTuple):
    start_s: float
    end_s: float
    label: str


@dataclass
class Drawn:
    """A joined video, what it shows when, and its labels."""

    path: Path
    labels: tuple[str, ...] = ()
    truth: list[Truth] = field(default_factory=list)


def clips_by_object() -> dict[str, list[Path]]:
    """The clips of all objects, by the first word of their class."""
    videos = load_shapes("retrieval")
    found: dict[str, list[Path]] = {}
    for record in videos.records:
        found.setdefault(videos.classes[record.label].split()[0], []).append(record.video)
    return found


def join(path: Path, seed: int, duration_s: float = VIDEO_S) -> Drawn:
    """Write a video of stretches of 3 to 12 s, of which three in ten show an object that is no label."""
    rng = np.random.default_rng(seed)
    clips = clips_by_object()
    objects = [str(name) for name in rng.permutation(sorted(clips))]
    drawn, others = Drawn(path, tuple(objects[:KNOWN])), objects[KNOWN:]
    frames: list[NDArray[np.uint8]] = []
    last = ""
    while len(frames) < duration_s * FPS:
        pool = others if rng.random() < 0.3 else drawn.labels
        last = str(rng.choice([name for name in pool if name != last]))
        start, stop = len(frames), len(frames) + int(rng.integers(3 * FPS, 12 * FPS))
        while len(frames) < stop:
            with open_video(rng.choice(clips[last])) as video:
                frames += list(video.read(range(video.num_frames)).permute(0, 2, 3, 1).contiguous().numpy())
        del frames[stop:]
        if last in drawn.labels:
            drawn.truth.append(Truth(start / FPS, stop / FPS, last))
    write(path, frames, FPS)
    return drawn


def write(path: Path, frames: Sequence[NDArray[np.uint8]], fps: int) -> None:
    """Write frames (H, W, 3) as H.264, with the encoder's own distance of key frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def repeat(source: Path, path: Path, minutes: float) -> None:
    """Write the packets of a video again and again, until it lasts so many minutes."""
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        stream = given.streams.video[0]
        copy = container.add_stream_from_template(stream)
        length = int(stream.duration)
        for turn in range(round(minutes * 60 / float(length * stream.time_base))):
            given.seek(0)
            for packet in given.demux(stream):
                if packet.dts is not None:
                    packet.pts += turn * length
                    packet.dts += turn * length
                    packet.stream = copy
                    container.mux(packet)


def count_right(found: Sequence[Segment], truth: Sequence[Truth], least: float = 0.5) -> int:
    """Count the segments that have a true one of the same label, each true one once, the best overlaps first."""
    pairs = []
    for (i, one), (j, own) in itertools.product(enumerate(found), enumerate(truth)):
        both = min(one.end_s, own.end_s) - max(one.start_s, own.start_s)
        either = max(one.end_s, own.end_s) - min(one.start_s, own.start_s)
        if one.label == own.label and both / either >= least:
            pairs.append((-both / either, i, j))
    taken: set[tuple[str, int]] = set()
    right = 0
    for _, i, j in sorted(pairs):
        if not taken & {("found", i), ("true", j)}:
            taken |= {("found", i), ("true", j)}
            right += 1
    return right


class Scored(NamedTuple):
    """A video with the scores of its windows."""

    video: Drawn
    scores: WindowScores


def score(model: Any, videos: Sequence[Drawn], length_s: float, stride_s: float) -> Iterator[Scored]:
    """Yield the scores by the steps that `Predictor.segments` takes."""
    for video in videos:
        predictor = vactk.Predictor(model, video.labels)
        unrelated = predictor._embed(unrelated_phrases(predictor.words)).float().cpu()
        windows = WindowConfig(length_s=length_s, stride_s=stride_s)
        (found,) = predictor._windows([video.path], windows, None)
        yield Scored(video, predictor._window_scores(found, None, unrelated))


def f1(scored: Sequence[Scored], change_cost: float = CHANGE_COST, multi_label: bool = False) -> float:
    """F1 over the segments of all videos."""
    right = counted = 0
    for video, scores in scored:
        made = make_timeline(
            video.path, video.labels, scores, multi_label=multi_label, change_cost=change_cost
        )
        found = [segment for segment in made.segments if segment.label is not None]
        right += count_right(found, video.truth)
        counted += len(found) + len(video.truth)
    return 2 * right / counted


def compare(folder: Path) -> None:
    """Print F1 of all settings on the drawings for tuning, and of the defaults on the others."""
    model = vactk.load_model("toy", device="cpu", settings={"data.workers": 0})
    sets = {
        name: [join(folder / f"{seed}.mp4", seed) for seed in seeds]
        for name, seeds in (("tuning", TUNING), ("report", REPORT))
    }
    print("F1 at an overlap of 0.5, by the cost of a change")
    print("window stride  " + " ".join(f"{cost:6g}" for cost in COSTS))
    for length_s, stride_s in WINDOWS:
        scored = list(score(model, sets["tuning"], length_s, stride_s))
        values = " ".join(f"{f1(scored, cost):6.3f}" for cost in COSTS)
        print(f"{length_s:6g} {stride_s:6g}  {values}", flush=True)
    print("on other drawings, with the defaults:")
    for length_s in (1, 2, 4):
        scored = list(score(model, sets["report"], length_s, length_s / 4))
        never = [Scored(v, s._replace(levels=torch.full_like(s.levels, -1.0))) for v, s in scored]
        print(
            f"window {length_s:g} s: {f1(scored):.3f}; several labels at a time: "
            f"{f1(scored, multi_label=True):.3f}; without 'none of these': {f1(never):.3f}; "
            f"{sum(len(one.video.truth) for one in scored)} true segments"
        )


def long_videos(folder: Path) -> None:
    """Print the time of an hour beside one sequential decode, and peak memory over 20 and 120 minutes."""
    drawn = join(folder / "drawn.mp4", 0, 20.0)
    with open_video(drawn.path) as video:
        small = video.read(range(video.num_frames)).permute(0, 2, 3, 1).contiguous().numpy()
    enlarged = [frame.repeat(6, axis=0).repeat(10, axis=1)[:360, :640] for frame in small for _ in range(2)]
    write(folder / "large.mp4", enlarged, 2 * FPS)
    repeat(folder / "large.mp4", folder / "hour.mp4", 60)
    started_s = time.perf_counter()
    with av.open(str(folder / "hour.mp4")) as container:
        num_frames = sum(1 for _ in container.decode(video=0))
    decoded_s = time.perf_counter() - started_s
    print(f"an hour of 640 x 360 at {2 * FPS} frames per second: {num_frames:,} frames")
    print(f"one sequential decode: {decoded_s:.1f} s")
    model = vactk.load_model("toy", device="cpu", settings={"data.workers": 0})
    predictor = vactk.Predictor(model, LABELS)
    for length_s, stride_s in ((4, 1), (10, 10)):
        started_s = time.perf_counter()
        predictor.segments(folder / "hour.mp4", window=length_s, stride=stride_s)
        spent_s = time.perf_counter() - started_s
        print(
            f"--window {length_s} --stride {stride_s}: {spent_s:.1f} s, {spent_s / decoded_s:.2f} x",
            flush=True,
        )
    for minutes in (20, 120):
        repeat(drawn.path, folder / f"{minutes}.mp4", minutes)
        command = [sys.executable, "-c", MEASURE, str(folder / f"{minutes}.mp4"), ",".join(LABELS)]
        measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{measured['minutes']:.0f} minutes: peak of {measured['peak_mib']:.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="measure time and memory")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        (long_videos if chosen.long else compare)(Path(folder))


if __name__ == "__main__":
    main()
