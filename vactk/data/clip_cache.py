"""A memory-mapped file of decoded frames of a dataset, for machines that decode too slowly to train.

It holds a fixed number of evenly spaced frames per video, at training resolution; training samples among these.
Evaluation never reads from a cache.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vactk.config import parse_json
from vactk.data.isolated_read import read_each
from vactk.data.records import Record
from vactk.errors import VactkError
from vactk.files.atomic import atomic_path, write_json
from vactk.progress import Progress
from vactk.video.container import VideoError, VideoWarning
from vactk.video.reader import Sample, Sampler, Timeline, sample_video
from vactk.video.sampling import uniform_segments

FRAMES_NAME, INDEX_NAME = "frames.bin", "index.json"
VERSION = 1


class CachedFrames(NamedTuple):
    """The frames of one record, as a worker returns them, or the error."""

    record_index: int
    frames: Tensor  # (K, H, W, 3) uint8
    times_s: list[float]
    num_frames: int  # in the whole video
    warning: str | None  # where only a part of the video decodes
    error: str | None


@dataclass(frozen=True)
class CacheResult:
    """Summary of a new cache."""

    folder: Path
    num_videos: int
    num_bytes: int
    unreadable: dict[str, str] = field(default_factory=dict)  # {video: error}


class FrameReader:
    """Reads evenly spaced frames of records by index."""

    def __init__(self, records: Sequence[Record], num_frames: int, short_side: int) -> None:
        self.records = records
        self.num_frames = num_frames
        self.short_side = short_side

    def __getitem__(self, index: int) -> CachedFrames:
        record = self.records[index]

        def sampler(timeline: Timeline) -> Tensor:
            if timeline.num_frames <= self.num_frames:
                return torch.arange(timeline.num_frames)
            return uniform_segments(timeline.num_frames, self.num_frames)

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VideoWarning)  # returned with the frames
                sample = sample_video(
                    record.video,
                    sampler,
                    short_side=self.short_side,
                    start_s=record.start_s,
                    end_s=record.end_s,
                )
        except VideoError as error:
            return self._unreadable(index, str(error))
        frames = sample.frames.permute(0, 2, 3, 1).contiguous()  # (K, H, W, 3)
        return CachedFrames(index, frames, sample.times_s.tolist(), sample.num_frames, sample.warning, None)

    def failed(self, index: int, reason: str) -> CachedFrames:
        """Return the result for a video whose decoder hung or crashed."""
        return self._unreadable(index, str(VideoError(self.records[index].video, reason)))

    def _unreadable(self, index: int, error: str) -> CachedFrames:
        return CachedFrames(index, torch.empty(0, dtype=torch.uint8), [], 0, None, error)


def build_cache(
    records: Sequence[Record],
    folder: Path,
    *,
    num_frames: int = 16,
    short_side: int = 224,
    workers: int,
    timeout_s: float = 120.0,
    progress: Progress | None = None,
) -> CacheResult:
    """Decode `num_frames` frames of every record into `folder`, atomically; an existing cache is replaced.

    Takes about `num_frames` x `short_side`^2 x 4 bytes per video. Raises VactkError when it cannot be written.
    """
    reader = FrameReader(records, num_frames, short_side)
    (folder / INDEX_NAME).unlink(missing_ok=True)  # it would describe the new file wrongly
    with atomic_path(folder / FRAMES_NAME) as temporary, temporary.open("wb") as file:
        found = read_each(
            reader, range(len(records)), workers=workers, timeout_s=timeout_s, progress=progress
        )
        entries, unreadable = _write_frames(records, found, file)
    index = {"version": VERSION, "num_frames": num_frames, "short_side": short_side, "videos": entries}
    write_json(folder / INDEX_NAME, index, indent=None)
    num_bytes = sum(math.prod(entry["shape"]) for entry in entries.values())
    return CacheResult(folder, len(entries), num_bytes, unreadable)


def _write_frames(
    records: Sequence[Record], found: Iterable[CachedFrames], file: IO[bytes]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Write frames one after another; return (index entries, {unreadable video: error})."""
    entries: dict[str, dict[str, Any]] = {}
    unreadable: dict[str, str] = {}
    offset = 0
    for read in found:
        record = records[read.record_index]
        if read.error is not None:
            unreadable[str(record.video)] = read.error
            continue
        entries[_key(record)] = {
            "offset": offset,
            "shape": list(read.frames.shape),
            "times_s": read.times_s,
            "num_frames": read.num_frames,
            "warning": read.warning,
        }
        offset += file.write(read.frames.numpy().tobytes())
    return entries, unreadable


class FrameCache:
    """A cache opened for reading. Pickled copies in other processes map the same file."""

    def __init__(self, folder: Path) -> None:
        """Raises VactkError where there is no cache, or it is damaged or of another version."""
        try:
            index = parse_json((folder / INDEX_NAME).read_text(encoding="utf-8"))
            size = (folder / FRAMES_NAME).stat().st_size
        except (OSError, ValueError) as error:
            raise VactkError(
                f"there is no frame cache in '{folder}'; build it with `vactk data cache NAME --output {folder}`"
            ) from error
        if not isinstance(index, dict) or index.get("version") != VERSION:
            raise VactkError(f"the cache in '{folder}' is of another version of vactk; build it again")
        self.folder = folder
        try:
            self.short_side = int(index["short_side"])
            self._videos = {key: _checked(video) for key, video in index["videos"].items()}
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise VactkError(f"the index of the cache in '{folder}' is damaged; build it again") from error
        expected = sum(math.prod(video["shape"]) for video in self._videos.values())
        ends = (video["offset"] + math.prod(video["shape"]) for video in self._videos.values())
        if size != expected or max(ends, default=0) > size:
            raise VactkError(
                f"the cache in '{folder}' holds {size} bytes, expected {expected}; build it again"
            )
        self._frames: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._videos)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frames": None}  # another process maps the file itself

    def sample(self, record: Record, sampler: Sampler) -> Sample | None:
        """Return the cached frames that `sampler` chooses; None if the video is not cached, or has changed."""
        video = self._videos.get(_key(record))
        if video is None:
            return None
        times_s = torch.tensor(video["times_s"], dtype=torch.float64)
        span_s = float(times_s[-1] - times_s[0])
        fps = (len(times_s) - 1) / span_s if span_s > 0 else 25.0
        chosen = sampler(Timeline(times_s=times_s, fps=fps)).flatten()
        frames = self._mapped(video["offset"], video["shape"])[chosen.numpy()]  # (N, H, W, 3), copied
        return Sample(
            frames=torch.from_numpy(frames).permute(0, 3, 1, 2),
            times_s=times_s[chosen],
            num_frames=video["num_frames"],
            warning=video["warning"],
        )

    def _mapped(self, offset: int, shape: Sequence[int]) -> np.ndarray:
        if self._frames is None:
            self._frames = np.memmap(self.folder / FRAMES_NAME, dtype=np.uint8, mode="r")
        return np.asarray(self._frames[offset : offset + int(np.prod(shape))]).reshape(shape)


def _checked(video: dict[str, Any]) -> dict[str, Any]:
    """Return an index entry with its types checked. Raises ValueError, TypeError or LookupError."""
    offset, shape, times_s = video["offset"], [int(size) for size in video["shape"]], video["times_s"]
    whole = isinstance(offset, int) and offset >= 0 and len(shape) == 4 and shape[3] == 3 and min(shape) > 0
    if not whole or len(times_s) != shape[0] or not isinstance(video["num_frames"], int):
        raise ValueError("not an entry of a video")
    times_s = [float(time_s) for time_s in times_s]
    return {**video, "shape": shape, "times_s": times_s, "warning": video["warning"]}


def _key(record: Record) -> str:
    """Return the key of a record: its path and times, and the file's size and modification time."""
    try:
        state = record.video.stat()
        stamp = f"{state.st_size}:{state.st_mtime_ns}"
    except OSError:
        stamp = "absent"
    return f"{record.video.absolute()}|{record.start_s}|{record.end_s}|{stamp}"
