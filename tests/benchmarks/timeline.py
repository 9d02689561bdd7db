"""Answers over time on joined clips of `shapes`, whose times are known: F1, time, and memory.

    python -m tests.benchmarks.timeline            # settings compared on some drawings, reported on others
    python -m tests.benchmarks.timeline --long     # time per hour of video, and memory over 20 and 120 minutes

Each video is H.264: stretches of clips of one object, with stretches of objects that are no label between some of
them. The labels are objects that the toy CLIP knows from stills. A segment is right if it overlaps a true one of
its label by an intersection over union of 0.5, each true one once.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from vactk.data.shapes.clips import load_shapes
from vactk.evaluate import timeline
from vactk.video.reader import open_video

FPS = 12
KNOWN = 6  # objects that are labels; the others are shown between them
VIDEO_S = 120.0
TUNING, REPORT = range(4), range(100, 108)  # seeds of drawings


class Truth(NamedTuple):
    start_s: float
    end_s: float
    label: str


def clips_by_object() -> dict[str, list[Path]]:
    """The clips of all objects, by the first word of their class."""
    videos = load_shapes("retrieval")
    found: dict[str, list[Path]] = {}
    for record in videos.records:
        found.setdefault(videos.classes[record.label].split()[0], []).append(record.video)
    return found


def join(path: Path, seed: int, duration_s: float = VIDEO_S) -> tuple[list[Truth], tuple[str, ...]]:
    """Write a video of stretches of 3 to 12 s; return what it shows when, and the labels."""
    rng = np.random.default_rng(seed)
    clips = clips_by_object()
    objects = [str(name) for name in rng.permutation(sorted(clips))]
    labels, others = objects[:KNOWN], objects[KNOWN:]
    truth: list[Truth] = []
    number, last = 0, ""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        while number / FPS < duration_s:
            pool = others if rng.random() < 0.3 else labels
            shown = str(rng.choice([name for name in pool if name != last]))
            start, stop, last = number, number + int(rng.integers(3 * FPS, 12 * FPS)), shown
            while number < stop:
                with open_video(rng.choice(clips[shown])) as video:
                    frames = video.read(range(video.num_frames)).permute(0, 2, 3, 1)
                if not number:
                    stream.height, stream.width = frames.shape[1:3]
                for frame in frames[: stop - number].contiguous().numpy():
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                    number += 1
            if shown in labels:
                truth.append(Truth(start / FPS, stop / FPS, shown))
        container.mux(stream.encode())
    return truth, tuple(labels)


def count_right(found: list[timeline.Segment], truth: list[Truth], least: float = 0.5) -> int:
    """Count the segments with a true one of the same label, each true one once, the best overlaps first."""
    pairs = []
    for i, one in enumerate(found):
        for j, own in enumerate(truth):
            both = min(one.end_s, own.end_s) - max(one.start_s, own.start_s)
            either = max(one.end_s, own.end_s) - min(one.start_s, own.start_s)
            if one.label == own.label and both / either >= least:
                pairs.append((-both / either, i, j))
    taken_i, taken_j = set(), set()
    for _, i, j in sorted(pairs):
        if i not in taken_i and j not in taken_j:
            taken_i.add(i)
            taken_j.add(j)
    return len(taken_i)
