"""The videos of `shapes`: generated once from fixed seeds and kept in the user's cache."""

from __future__ import annotations

import json
import tempfile
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
from vactk.files.paths import cache_folder
from vactk.progress import Progress
from vactk.video.container import create_container

VERSION = 1  # increased with every change to the drawings
NUM_FRAMES = 12
FPS = 12
STAMP = "complete.json"
# a fixed quantiser and a single thread: encoding the same video gives the same bytes
ENCODING = {"qp": "18", "preset": "veryfast", "x264-params": "threads=1:lookahead-threads=1"}

STILL_SHAPES = ("key", "flag", "mushroom", "drop")  # in no training video, only in stills
MOVING_SHAPES = ("star", "heart", "triangle", "moon", "house", "fish", "bolt", "tree")
HELD_OUT = 2  # motions per moving shape that are not in training


@dataclass(frozen=True, kw_only=True)
class Split:
    """The classes of a split, and the number of videos of each."""

    classes: tuple[str, ...]
    videos_per_class: int
    seed: int
    unique_captions: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedVideo:
    """One video, ready to be rendered."""

    name: str  # of its file
    label: int  # index into the classes of its split
    look: Look
    poses: Array  # (T, 4)
    caption: str
    seed: tuple[int, ...]  # for `draw`


def load_shapes(split: str, *, root: Path | None = None, progress: Progress | None = None) -> VideoSet:
    """Load one split, generating its videos first if needed.

    They are stored under `root`, by default the cache folder. Raises VactkError for an unknown split, and when the
    folder is not writable.
    """
    chosen = pick(SPLITS, split, "split of shapes")
    folder = (root or cache_folder()) / f"shapes-v{VERSION}" / split
    videos = plan(chosen)
    if not _is_complete(folder, videos):
        _make(folder, videos, progress)
    records = tuple(
        Record(video=folder / video.name, label=video.label, captions=(video.caption,)) for video in videos
    )
    classes = chosen.classes
    return VideoSet(name="shapes", split=split, classes=classes, words=classes, records=records)


def plan(split: Split) -> list[PlannedVideo]:
    """Return the videos of a split, class by class, with distinct captions where it asks for them."""
    videos: list[PlannedVideo] = []
    captions: set[str] = set()
    for label, name in enumerate(split.classes):
        shape, motion = name.split(" ", 1)
        for number in range(split.videos_per_class):
            video = _plan_video(shape, motion, label, number, split)
            attempt = 0
            while split.unique_captions and video.caption in captions:
                attempt += 1
                video = _plan_video(shape, motion, label, number, split, attempt)
            captions.add(video.caption)
            videos.append(video)
    return videos


def render(video: PlannedVideo) -> NDArray[np.uint8]:
    """Draw the frames of a video, uint8 (T, SIZE, SIZE, 3)."""
    return draw(video.look, video.poses, np.random.default_rng(video.seed))


def _plan_video(
    shape: str, motion: str, label: int, number: int, split: Split, attempt: int = 0
) -> PlannedVideo:
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
    return PlannedVideo(name=name, label=label, look=look, poses=poses, caption=caption, seed=seed)


def _is_complete(folder: Path, videos: list[PlannedVideo]) -> bool:
    """Whether a folder holds all of its videos, with the file sizes of its stamp."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        return bool(stamp == {video.name: (folder / video.name).stat().st_size for video in videos})
    except (OSError, ValueError):
        return False


def _make(folder: Path, videos: list[PlannedVideo], progress: Progress | None) -> None:
    """Generate the videos in a temporary folder and rename it, so that concurrent processes both succeed."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            made = Path(name) / folder.name
            made.mkdir()
            for done, video in enumerate(videos, 1):
                _encode(made / video.name, render(video))
                if progress is not None:
                    progress(done, len(videos))
            sizes = {video.name: (made / video.name).stat().st_size for video in videos}
            (made / STAMP).write_text(json.dumps(sizes), encoding="utf-8")
            _move_into_place(made, folder, videos)
    except OSError as error:
        raise VactkError(
            f"cannot generate the videos of shapes in '{folder}': {error.strerror or error}; "
            "choose another folder with --data-root or VACTK_CACHE"
        ) from error


def _move_into_place(made: Path, folder: Path, videos: list[PlannedVideo]) -> None:
    if folder.exists() and not _is_complete(folder, videos):
        folder.rename(made.with_name("stale"))  # removed with the temporary folder
    try:
        made.rename(folder)
    except OSError:
        if not _is_complete(folder, videos):  # else another process was faster
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
    """Return (seen, unseen) classes. In training each moving shape lacks two motions, each motion two shapes."""
    motions = list(MOTIONS)
    seen: list[str] = []
    unseen: list[str] = []
    for index, shape in enumerate(MOVING_SHAPES):
        missing = {(index + 4 * k + k) % len(motions) for k in range(HELD_OUT)}
        for number, motion in enumerate(motions):
            (unseen if number in missing else seen).append(f"{shape} {motion}")
    unseen += [f"{shape} {motion}" for shape in STILL_SHAPES for motion in motions]
    return tuple(seen), tuple(unseen)


SEEN, UNSEEN = _classes()

SPLITS = {
    "train": Split(classes=SEEN, videos_per_class=16, seed=0),
    "seen": Split(classes=SEEN, videos_per_class=6, seed=1),
    "unseen": Split(classes=UNSEEN, videos_per_class=6, seed=2),
    "retrieval": Split(classes=SEEN + UNSEEN, videos_per_class=3, seed=3, unique_captions=True),
}
