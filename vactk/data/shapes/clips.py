"""The clips of the world as real video files: made once from fixed seeds, kept in the user's cache."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from vactk.data.records import Record, VideoSet
from vactk.data.shapes.outlines import Array
from vactk.data.shapes.world import (
    BACKGROUNDS,
    COLORS,
    MOTIONS,
    RADIUS,
    SIZE,
    Look,
    caption_of,
    draw,
    size_word,
    track,
)
from vactk.errors import VactkError, pick
from vactk.video.container import create_container

VERSION = 1  # of the clips: a change to what is drawn needs another
NUM_FRAMES = 12
FPS = 12
STAMP = "complete.json"
# a fixed quantiser and no threads: nothing for timing to decide, so the same clip gives the same bytes
ENCODING = {"qp": "18", "preset": "veryfast", "x264-params": "threads=1:lookahead-threads=1"}

STILL_SHAPES = ("key", "flag", "mushroom", "drop")  # in no training clip, only in stills
MOVING_SHAPES = ("star", "heart", "triangle", "moon", "house", "fish", "bolt", "tree")
HELD_OUT = 2  # motions in which a moving shape is never seen in training

Progress = Callable[[int, int], None]  # clips made, all clips


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which classes a split has, and how many clips of each."""

    classes: tuple[str, ...]
    clips_per_class: int
    seed: int
    unique_captions: bool = False


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip, ready to be drawn."""

    name: str  # of its file
    label: int  # place among the classes of its split
    look: Look
    poses: Array  # (T, 4)
    caption: str
    seed: tuple[int, ...]  # of what `draw` leaves to chance


def load_shapes(split: str, *, root: Path | None = None, progress: Progress | None = None) -> VideoSet:
    """One split of the dataset; its clips are made first where they are not there.

    They lie under `root`, by default in the cache folder: VACTK_CACHE, else the system's usual one. Raises
    VactkError for an unknown split, and when the folder cannot be written.
    """
    chosen = pick(SPLITS, split, "split of shapes")
    folder = (root or cache_folder()) / f"shapes-v{VERSION}" / split
    clips = plan(chosen)
    if not _is_complete(folder, clips):
        _make(folder, clips, progress)
    records = tuple(
        Record(video=folder / clip.name, label=clip.label, captions=(clip.caption,)) for clip in clips
    )
    classes = chosen.classes
    return VideoSet(name="shapes", split=split, classes=classes, words=classes, records=records)


def plan(split: Split) -> list[Clip]:
    """The clips of a split, class by class: no two of them have the same caption within `retrieval`."""
    clips: list[Clip] = []
    captions: set[str] = set()
    for label, name in enumerate(split.classes):
        shape, motion = name.split(" ", 1)
        for number in range(split.clips_per_class):
            clip = _plan_clip(shape, motion, label, number, split)
            attempt = 0
            while split.unique_captions and clip.caption in captions:
                attempt += 1
                clip = _plan_clip(shape, motion, label, number, split, attempt)
            captions.add(clip.caption)
            clips.append(clip)
    return clips


def render(clip: Clip) -> NDArray[np.uint8]:
    """The frames of a clip, (T, SIZE, SIZE, 3)."""
    return draw(clip.look, clip.poses, np.random.default_rng(clip.seed))


def cache_folder() -> Path:
    """Where vactk keeps what it can make again."""
    if "VACTK_CACHE" in os.environ:
        return Path(os.environ["VACTK_CACHE"]).expanduser()
    if "XDG_CACHE_HOME" in os.environ:
        return Path(os.environ["XDG_CACHE_HOME"]) / "vactk"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "vactk"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "vactk"
    return Path.home() / ".cache" / "vactk"


def _plan_clip(shape: str, motion: str, label: int, number: int, split: Split, attempt: int = 0) -> Clip:
    seed = (VERSION, split.seed, label, number, attempt)
    rng = np.random.default_rng(seed)
    look = Look(
        shape=shape,
        color=list(COLORS)[rng.integers(len(COLORS))],
        background=list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))],
    )
    poses = track(motion, NUM_FRAMES, rng)
    size = "" if MOTIONS[motion][0] == RADIUS else size_word(float(poses[0, RADIUS]))
    caption = caption_of(look, size=size, motion=motion)
    name = f"{shape}_{motion.replace(' ', '_')}_{number:03d}.mp4"
    return Clip(name=name, label=label, look=look, poses=poses, caption=caption, seed=seed)


def _is_complete(folder: Path, clips: list[Clip]) -> bool:
    """Whether a folder holds all of its clips: its stamp counts their bytes."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        return bool(stamp == {clip.name: (folder / clip.name).stat().st_size for clip in clips})
    except (OSError, ValueError):
        return False


def _make(folder: Path, clips: list[Clip], progress: Progress | None) -> None:
    """Make the clips in a folder of our own and rename it: two processes at once both end with whole ones."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            made = Path(name) / folder.name
            made.mkdir()
            for done, clip in enumerate(clips, 1):
                _encode(made / clip.name, render(clip))
                if progress is not None:
                    progress(done, len(clips))
            sizes = {clip.name: (made / clip.name).stat().st_size for clip in clips}
            (made / STAMP).write_text(json.dumps(sizes), encoding="utf-8")
            _move_into_place(made, folder, clips)
    except OSError as error:
        raise VactkError(
            f"cannot make the clips of shapes in '{folder}': {error.strerror or error}; "
            "choose a folder with room by --data-root or VACTK_CACHE"
        ) from error


def _move_into_place(made: Path, folder: Path, clips: list[Clip]) -> None:
    if folder.exists() and not _is_complete(folder, clips):
        folder.rename(made.with_name("stale"))  # it goes with our temporary folder
    try:
        made.rename(folder)
    except OSError:
        if not _is_complete(folder, clips):  # else another process was faster, with the same clips
            raise


def _encode(path: Path, frames: NDArray[np.uint8]) -> None:
    with create_container(path) as container:
        stream = container.add_stream("libx264", rate=FPS, options=ENCODING)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Seen and unseen classes. Every moving shape misses two motions in training, each motion misses two shapes."""
    motions = list(MOTIONS)
    seen: list[str] = []
    unseen: list[str] = []
    for place, shape in enumerate(MOVING_SHAPES):
        missing = {(place + 4 * k + k) % len(motions) for k in range(HELD_OUT)}
        for number, motion in enumerate(motions):
            (unseen if number in missing else seen).append(f"{shape} {motion}")
    unseen += [f"{shape} {motion}" for shape in STILL_SHAPES for motion in motions]
    return tuple(seen), tuple(unseen)


SEEN, UNSEEN = _classes()

SPLITS = {
    "train": Split(classes=SEEN, clips_per_class=16, seed=0),
    "seen": Split(classes=SEEN, clips_per_class=6, seed=1),
    "unseen": Split(classes=UNSEEN, clips_per_class=6, seed=2),
    "retrieval": Split(classes=SEEN + UNSEEN, clips_per_class=3, seed=3, unique_captions=True),
}
