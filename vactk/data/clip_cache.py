"""Decoded frames of a dataset in one file, mapped into memory, for machines that decode too slowly to train.

Of each video a fixed number of frames is kept, evenly spread, at the size of training. Training then chooses
among these. Evaluation never reads from a cache.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vactk.config import parse_json
from vactk.data.records import Record
from vactk.data.worker_pool import BatchLoader
from vactk.errors import VactkError
from vactk.files.atomic import atomic_path, write_text
from vactk.progress import Progress
from vactk.video.container import VideoError, VideoWarning
from vactk.video.reader import Sample, Sampler, Timeline, sample_video
from vactk.video.sampling import uniform_segments

FRAMES_NAME, INDEX_NAME = "frames.bin", "index.json"
VERSION = 1


class Kept(NamedTuple):
    """The frames of one record, as they come from a worker."""

    place: int
    frames: Tensor  # (K, H, W, 3) uint8
    times_s: list[float]
    num_frames: int  # of the whole video
    warning: str | None
    problem: str | None


@dataclass(frozen=True)
class CacheResult:
    """A cache that was made."""

    folder: Path
    num_videos: int
    num_bytes: int
    unreadable: dict[str, str] = field(default_factory=dict)  # they are decoded, and fail, in training


class FrameSource:
    """Reads evenly spread frames of records by their place."""

    def __init__(self, records: Sequence[Record], num_frames: int, short_side: int) -> None:
        self.records = records
        self.num_frames = num_frames
        self.short_side = short_side

    def __getitem__(self, place: int) -> Kept:
        record = self.records[place]

        def sampler(timeline: Timeline) -> Tensor:
            if timeline.num_frames <= self.num_frames:
                return torch.arange(timeline.num_frames)
            return uniform_segments(timeline.num_frames, self.num_frames)

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VideoWarning)  # it is kept with the frames
                sample = sample_video(
                    record.video,
                    sampler,
                    short_side=self.short_side,
                    start_s=record.start_s,
                    end_s=record.end_s,
                )
        except VideoError as error:
            return self._nothing(place, str(error))
        frames = sample.frames.permute(0, 2, 3, 1).contiguous()  # (K, H, W, 3)
        return Kept(place, frames, sample.times_s.tolist(), sample.num_frames, sample.warning, None)

    def failed(self, place: int, reason: str) -> Kept:
        """A video whose decoder hung or crashed."""
        return self._nothing(place, str(VideoError(self.records[place].video, reason)))

    def _nothing(self, place: int, problem: str) -> Kept:
        return Kept(place, torch.empty(0, dtype=torch.uint8), [], 0, None, problem)


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
    """Decode `num_frames` frames of every record into `folder`, which gets a cache whole or none.

    A cache that is there is replaced. Takes `num_frames` x `short_side`^2 x 4 bytes or so a video.
    """
    source = FrameSource(records, num_frames, short_side)
    reader = BatchLoader(
        source, [[place] for place in range(len(records))], _first, workers=workers, timeout_s=timeout_s
    )
    entries: dict[str, dict[str, Any]] = {}
    unreadable: dict[str, str] = {}
    offset = 0
    (folder / INDEX_NAME).unlink(missing_ok=True)  # it would count through the new file wrongly
    with atomic_path(folder / FRAMES_NAME) as temporary, temporary.open("wb") as file:
        for done, kept in enumerate(reader, 1):
            record = records[kept.place]
            if kept.problem is not None:
                unreadable[str(record.video)] = kept.problem
            else:
                entries[_key(record)] = {
                    "offset": offset,
                    "shape": list(kept.frames.shape),
                    "times_s": kept.times_s,
                    "num_frames": kept.num_frames,
                    "warning": kept.warning,
                }
                offset += file.write(kept.frames.numpy().tobytes())
            if progress is not None:
                progress(done, len(records))
    index = {"version": VERSION, "num_frames": num_frames, "short_side": short_side, "videos": entries}
    write_text(folder / INDEX_NAME, json.dumps(index))
    return CacheResult(folder, len(entries), offset, unreadable)


class ClipCache:
    """A cache, opened for reading. It may be shared with other processes, which map the same file."""

    def __init__(self, folder: Path) -> None:
        """Raises VactkError where there is no cache, or only a part of one."""
        try:
            index = parse_json((folder / INDEX_NAME).read_text(encoding="utf-8"))
            size = (folder / FRAMES_NAME).stat().st_size
        except (OSError, ValueError) as error:
            raise VactkError(
                f"there is no cache of clips in '{folder}': make it by `vactk data cache DATASET --output {folder}`"
            ) from error
        if not isinstance(index, dict) or index.get("version") != VERSION:
            raise VactkError(f"the cache in '{folder}' is of another version of vactk: make it again")
        self.folder = folder
        try:
            self.short_side = int(index["short_side"])
            self._videos = {key: _checked(video) for key, video in index["videos"].items()}
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise VactkError(f"the index of the cache in '{folder}' is damaged: make it again") from error
        expected = sum(math.prod(video["shape"]) for video in self._videos.values())
        ends = (video["offset"] + math.prod(video["shape"]) for video in self._videos.values())
        if size != expected or max(ends, default=0) > size:
            raise VactkError(f"the cache in '{folder}' holds {size} bytes, not {expected}: make it again")
        self._frames: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._videos)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frames": None}  # the other process maps the file itself

    def sample(self, record: Record, sampler: Sampler) -> Sample | None:
        """The frames that `sampler` chooses among those kept; None where the video is not kept, or has changed."""
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
    """A video's entry in the index. Raises ValueError, or what its types give, where it is not one."""
    offset, shape, times_s = video["offset"], [int(size) for size in video["shape"]], video["times_s"]
    whole = isinstance(offset, int) and offset >= 0 and len(shape) == 4 and shape[3] == 3 and min(shape) > 0
    if not whole or len(times_s) != shape[0] or not isinstance(video["num_frames"], int):
        raise ValueError("an entry is not of a video")
    times_s = [float(time_s) for time_s in times_s]
    return {**video, "shape": shape, "times_s": times_s, "warning": video["warning"]}


def _key(record: Record) -> str:
    """The record and the state of its file: a file that was replaced is another one."""
    try:
        state = record.video.stat()
        stamp = f"{state.st_size}:{state.st_mtime_ns}"
    except OSError:
        stamp = "absent"
    return f"{record.video.absolute()}|{record.start_s}|{record.end_s}|{stamp}"


def _first(items: list[Kept]) -> Kept:
    return items[0]
