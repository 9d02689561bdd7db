"""Cut hits out of their videos, as MP4 clips that play everywhere."""

from __future__ import annotations

import itertools
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.container import OutputContainer

from vactk.data.isolated_read import TIMEOUT_S, read_isolated
from vactk.errors import VactkError
from vactk.files.atomic import atomic_path, remove_leftovers
from vactk.progress import Progress
from vactk.retrieval.hits import Hit
from vactk.retrieval.results.audio import RATE, audio_frames
from vactk.video.container import VideoError, VideoWarning, create_container
from vactk.video.encode import FASTSTART, H264Stream
from vactk.video.reader import ROUNDING_S, Video, open_video

T = TypeVar("T")
CRF = 20  # x264 quality: lower is better
KEYFRAME_EVERY = 48
SLOWEST = 20.0  # seconds allowed per second of a clip, on top of the time to open a video
LONGEST_STEM = 100  # bytes of the video's name within a clip's name; file systems allow 255 in all


def cut_clips(
    hits: Sequence[Hit], folder: Path, *, progress: Progress | None = None
) -> tuple[list[Path], list[str]]:
    """Write a clip of every hit to `folder`, such as `01_0.312_name_12.0-22.0s.mp4`; return (paths, errors).

    Missing and unreadable videos are skipped, with an error for each. Raises VactkError before anything is
    written if a clip exists, and if `folder` cannot be written.
    """
    paths = [folder / name for name in clip_names(hits)]
    taken = [path for path in paths if path.exists()]
    if taken:
        raise VactkError(f"'{taken[0]}' exists; choose another folder for --cut, or delete it first")
    written, failed = [], []
    for done, (hit, path) in enumerate(zip(hits, paths, strict=True), 1):
        try:
            _cut_hit(hit, path)
            written.append(path)
        except VideoError as error:
            failed.append(str(error))
        if progress is not None:
            progress(done, len(paths))
    return written, failed


def clip_names(hits: Sequence[Hit]) -> list[str]:
    """Return distinct file names for the hits' clips, also on file systems that ignore case."""
    names: list[str] = []
    taken: set[str] = set()
    for hit in hits:
        span = f"{hit.start_s:.1f}-{hit.end_s:.1f}s"
        name = f"{hit.rank:02d}_{hit.score:.3f}_{safe_name(hit.video.stem)}_{span}"
        versions = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
        name = next(version for version in versions if version.lower() not in taken)
        taken.add(name.lower())
        names.append(f"{name}.mp4")
    return names


def query_folder(folder: Path, number: int, query: str) -> Path:
    """Return the subfolder for the clips of one of several queries, such as `02_a_red_star`."""
    return folder / f"{number:02d}_{safe_name(query)}"


def safe_name(text: str) -> str:
    """Return `text` reduced to letters, digits, `-`, `.` and `_`, which every file system allows in names."""
    words = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text))
    short = words.encode("utf-8", "ignore")[:LONGEST_STEM].decode("utf-8", "ignore")
    return short.strip("._") or "video"


def cut(video: Path, start_s: float, end_s: float, output: Path, *, max_side: int | None = None) -> None:
    """Write [start_s, end_s) of a video as H.264 and AAC in MP4, re-encoded so that it starts and ends exactly.

    Every frame keeps its time. The image is upright, its longer side at most `max_side` pixels. Raises VideoError
    if there is nothing to cut, VactkError if `output` exists or cannot be written.
    """
    if output.exists():
        raise VactkError(f"'{output}' exists; choose another path, or delete it first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)  # a truncated video is cut as far as it goes
        with open_video(video) as source:
            frames = _frames(source, start_s, min(end_s, source.duration_s), max_side)
            first = next(frames)  # before a file is created: it raises if there is nothing
            with (
                atomic_path(output, "--cut") as temporary,
                create_container(temporary, FASTSTART) as container,
            ):
                _write(container, source, itertools.chain([first], frames), start_s, end_s)


def _cut_hit(hit: Hit, output: Path) -> None:
    """Cut in a child process. Raises VideoError, and leaves no file, if it takes too long."""
    work = partial(cut, start_s=hit.start_s, end_s=hit.end_s, output=output)
    try:
        read_isolated(work, hit.video, timeout_s=TIMEOUT_S + SLOWEST * max(0.0, hit.end_s - hit.start_s))
    except BaseException:
        remove_leftovers(output.parent)
        raise


Frame = tuple[float, float, np.ndarray]  # start, end (seconds of the clip), uint8 (H, W, 3)


def _frames(source: Video, start_s: float, end_s: float, max_side: int | None) -> Iterator[Frame]:
    """Yield every frame displayed in [start_s, end_s), including the one displayed at the start."""
    times_s = source.times_s.numpy()
    on_screen = max(0, int(np.searchsorted(times_s, start_s + ROUNDING_S, side="right")) - 1)
    since_s = float(times_s[on_screen]) if start_s < source.duration_s else start_s
    pictures = source.stream(start_s=since_s, end_s=end_s, short_side=_short_side(source, max_side))
    for (time_s, picture), following in _with_next(pictures):
        until_s = end_s if following is None else following[0]
        if until_s > start_s:
            rgb = picture.permute(1, 2, 0).numpy()  # (H, W, 3)
            yield max(0.0, time_s - start_s), until_s - start_s, rgb


def _short_side(source: Video, max_side: int | None) -> int | None:
    size = source.height, source.width
    if max_side is None or max(size) <= max_side:
        return None
    return max(2, min(size) * max_side // max(size))


def _with_next(items: Iterator[T]) -> Iterator[tuple[T, T | None]]:
    """Yield each item with the one after it, the last with None."""
    item = next(items, None)
    while item is not None:
        following = next(items, None)
        yield item, following
        item = following


def _write(
    container: OutputContainer, source: Video, frames: Iterator[Frame], start_s: float, end_s: float
) -> None:
    first = next(frames)
    stream = H264Stream(
        container,
        first[2].shape[:2],
        fps=source.fps,
        crf=CRF,
        keyframe_every=KEYFRAME_EVERY,
        pixel_aspect=source.pixel_aspect,
    )
    audio = _AudioTrack(container, audio_frames(Path(source.path), start_s, min(end_s, source.duration_s)))
    for time_s, until_s, rgb in itertools.chain([first], frames):
        audio.write_until(time_s)
        stream.add(rgb, time_s, until_s)
    stream.close()
    audio.write_until(None)


class _AudioTrack:
    """The audio of a clip, written along with its frames; empty if the video has none."""

    def __init__(self, container: OutputContainer, frames: Iterator[av.AudioFrame]) -> None:
        self._container, self._frames = container, frames
        self._next = next(frames, None)
        if self._next is not None:
            self._stream = container.add_stream("aac", rate=RATE, layout=self._next.layout.name)

    def write_until(self, time_s: float | None) -> None:
        """Write the samples up to a time; None: all that are left."""
        if self._next is None:
            return
        while self._next is not None and (time_s is None or (self._next.time or 0.0) <= time_s):
            self._container.mux(self._stream.encode(self._next))
            self._next = next(self._frames, None)
        if self._next is None:
            self._container.mux(self._stream.encode(None))
