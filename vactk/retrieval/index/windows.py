"""Videos as windows in time, and the windows' frames: what an entry of an index is made of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vactk.data.config import DataConfig, ImageSpec
from vactk.data.records import Record
from vactk.errors import VactkError
from vactk.video.container import VideoError, VideoWarning, header_duration_s
from vactk.video.reader import ROUNDING_S, Sample, Timeline, Video, open_video
from vactk.video.transforms import eval_transform

CHUNK = 32  # windows that one worker reads: bounds the memory that a long video takes
GROUP_BYTES = 256 * 2**20  # of frames as they are stored, at a time
TRUSTED_S = 86400.0  # headers that say more are not believed


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How a video is cut in time."""

    length_s: float = 0.0  # of a window; 0: the video as a whole
    stride_s: float = 0.0  # from the start of one window to the next; 0: the length

    def __post_init__(self) -> None:
        if not 0 <= self.length_s < math.inf or not 0 <= self.stride_s < math.inf:
            raise VactkError(
                f"--window and --stride are seconds of at least 0, got {self.length_s} and {self.stride_s}"
            )
        if self.stride_s and not self.length_s:
            raise VactkError("--stride goes with --window: say how long a window is")
        if self.stride_s > self.length_s:
            raise VactkError(
                f"--stride {self.stride_s:g} leaves out what lies between windows of {self.length_s:g} s"
            )

    @property
    def step_s(self) -> float:
        return self.stride_s or self.length_s

    def count(self, duration_s: float) -> int:
        """Windows until every moment is in one; the last may be shorter."""
        if not self.length_s:
            return 1
        return 1 + max(0, math.ceil((duration_s - self.length_s) / self.step_s - 1e-9))

    def span(self, number: int, duration_s: float) -> tuple[float, float]:
        """Start and end of a window, in seconds from the start of what is cut."""
        if not self.length_s:
            return 0.0, duration_s
        start_s = number * self.step_s
        return start_s, min(start_s + self.length_s, duration_s)


class Piece(NamedTuple):
    """Windows of one video that are read together."""

    place: int  # of the video, among those that are to be read
    first: int  # window
    is_last: bool  # everything from `first` on


class Windows(NamedTuple):
    """A piece, read or failed."""

    piece: Piece
    views: Tensor  # (W, V, T, 3, H, W'); empty where nothing was read, or once they are in a batch
    spans: list[tuple[float, float]]  # of the W windows, in seconds of the file
    error: str | None
    warning: str | None


class WindowBatch(NamedTuple):
    """The windows of several pieces, one after another."""

    views: Tensor  # (sum of W, V, T, 3, H, W')
    pieces: list[Windows]


def collate(pieces: list[Windows]) -> WindowBatch:
    """Pieces as one batch."""
    read = [piece.views for piece in pieces if piece.spans]
    empty = torch.empty(0)
    return WindowBatch(torch.cat(read) if read else empty, [piece._replace(views=empty) for piece in pieces])


class WindowDataset:
    """Pieces of videos, read on demand in worker processes, each frame of a piece decoded once."""

    def __init__(
        self, records: Sequence[Record], windows: WindowConfig, config: DataConfig, picture: ImageSpec
    ) -> None:
        self.records = records
        self.windows = windows
        self.config = config
        self.picture = picture

    def __getitem__(self, piece: Piece) -> Windows:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)  # it comes with the result
            try:
                return self._read(piece)
            except VideoError as error:
                return self._failed(piece, str(error))

    @property
    def window_bytes(self) -> int:
        """The size of one window's frames in memory."""
        views = self.config.views * self.config.transform.eval_crops
        return views * self.config.num_frames * 3 * self.picture.size**2 * 4

    def failed(self, piece: Piece, reason: str) -> Windows:
        """Return the result for a piece whose worker was lost."""
        return self._failed(piece, str(VideoError(self.records[piece.place].video, reason)))

    def _failed(self, piece: Piece, message: str) -> Windows:
        return Windows(piece, torch.empty(0), [], message, None)

    def _read(self, piece: Piece) -> Windows:
        """The piece in groups of windows, as many as memory has room for at the file's own resolution."""
        views: list[Tensor] = []
        spans: list[tuple[float, float]] = []
        crops = eval_transform(self.config.transform, *self.picture)
        with open_video(self.records[piece.place].video, self.config.decoder) as video:
            stop, size = piece.first + 1, 1
            while piece.first + len(spans) < stop:
                first = piece.first + len(spans)
                sample, found, stop = self._group(video, piece, first, size)
                if not found:
                    break
                clips = sample.frames.unflatten(0, (len(found) * self.config.views, -1))  # (W*V, T, 3, H, W)
                views.append(torch.cat([crops(clip) for clip in clips]).unflatten(0, (len(found), -1)))
                spans += found
                size = max(1, GROUP_BYTES * len(found) // sample.frames.numel())
        return Windows(piece, torch.cat(views) if views else torch.empty(0), spans, None, sample.warning)

    def _group(
        self, video: Video, piece: Piece, first: int, size: int
    ) -> tuple[Sample, list[tuple[float, float]], int]:
        """Frames and spans of at most `size` windows from `first` on, and the end of the piece."""
        record, config = self.records[piece.place], self.config
        spans: list[tuple[float, float]] = []
        stop = 0

        def sampler(timeline: Timeline) -> Tensor:
            nonlocal spans, stop
            times_s = timeline.times_s.numpy()
            begin = record.start_s or 0.0
            duration_s = min(times_s[-1] + 1 / timeline.fps, record.end_s or math.inf) - begin
            stop = self._stop(piece, duration_s)
            local = [self.windows.span(n, duration_s) for n in range(first, min(stop, first + size))]
            spans = [(begin + start_s, begin + end_s) for start_s, end_s in local]
            chosen = [_frames_within(timeline, span, config) for span in spans]
            return torch.cat(chosen) if chosen else torch.zeros(1, dtype=torch.long)

        sample = video.sample(sampler, start_s=record.start_s, end_s=record.end_s)
        return sample, spans, stop

    def _stop(self, piece: Piece, duration_s: float) -> int:
        """The first window after the piece, by how long the video really is."""
        count = self.windows.count(duration_s)
        if not piece.is_last:
            return min(count, piece.first + CHUNK)
        if count > piece.first + 2 * CHUNK:
            video = self.records[piece.place].video
            raise VideoError(
                video, "it is far longer than its header says: `vactk data convert` repairs that"
            )
        return count


def _frames_within(timeline: Timeline, span: tuple[float, float], config: DataConfig) -> Tensor:
    """(V*T,) numbers of the frames that stand for a window; at least one frame is in it: what is shown then."""
    first, stop = np.searchsorted(timeline.times_s.numpy(), np.array(span) - ROUNDING_S)
    if first >= stop:
        first = max(0, stop - 1)
    within = timeline.slice(int(first), max(int(first) + 1, int(stop)))
    return (
        int(first) + config.sampling.indices(within, config.num_frames, config.views, train=False).flatten()
    )


class Durations:
    """How long videos say that they are, read in worker processes: enough to plan how they are cut."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def __getitem__(self, place: int) -> float | None:
        """Seconds of the part that is cut; None where the file cannot be opened, which reading it will tell."""
        record = self.records[place]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)
            try:
                duration_s = header_duration_s(record.video)
                if duration_s is None or duration_s > TRUSTED_S:
                    with open_video(record.video) as video:
                        duration_s = float(video.times_s[-1]) + 1 / video.fps
            except VideoError:
                return None
        return min(duration_s, record.end_s or math.inf) - (record.start_s or 0.0)

    def failed(self, place: int, reason: str) -> float | None:
        """As for a file that cannot be opened."""
        return None


def pieces(place: int, duration_s: float | None, windows: WindowConfig) -> list[Piece]:
    """The pieces of a video that its header says to be so long; None: all in one."""
    starts = range(0, max(1, windows.count(duration_s or 0.0)), CHUNK)
    return [Piece(place, first, first == starts[-1]) for first in starts]
