"""Videos as windows in time, and the windows' frames: for indexes, and for answers over time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vactk.data.config import DataConfig, ImageSpec
from vactk.data.records import Record
from vactk.errors import VactkError
from vactk.video.container import VideoError, VideoWarning, header_duration_s
from vactk.video.reader import ROUNDING_S, Timeline, Video, open_video
from vactk.video.transforms import eval_transform

CHUNK = 32  # windows that one worker reads, more where they share frames: bounds the memory of a long video
MOST_SHARING = 8  # windows that a frame is read for at once
PLANNED_FPS = 30.0  # for which sharing is foreseen
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
    """A piece, read or failed. Windows that overlap share frames."""

    piece: Piece
    frames: (
        Tensor  # (N, crops, 3, H, W'), each once; empty where nothing was read, or once they are in a batch
    )
    chosen: Tensor  # (W, V, T) int64, numbers of the windows' frames in `frames`
    spans: list[tuple[float, float]]  # of the W windows, in seconds of the file
    error: str | None
    warning: str | None


class WindowBatch(NamedTuple):
    """The windows of several pieces, one after another."""

    frames: Tensor  # (sum of N, crops, 3, H, W')
    chosen: Tensor  # (sum of W, V, T) int64
    pieces: list[Windows]

    def views(self, first: int, stop: int) -> Tensor:
        """Return the views of some windows, a view for each crop. -> (W, V * crops, T, 3, H, W')"""
        frames = self.frames[self.chosen[first:stop]]  # (W, V, T, crops, 3, H, W')
        return frames.transpose(2, 3).flatten(1, 2)


def collate(pieces: list[Windows]) -> WindowBatch:
    """Pieces as one batch."""
    empty, frames, chosen, count = torch.empty(0), [], [], 0
    for piece in pieces:
        if piece.spans:
            frames.append(piece.frames)
            chosen.append(piece.chosen + count)
            count += len(piece.frames)
    kept = [piece._replace(frames=empty, chosen=empty) for piece in pieces]
    return WindowBatch(torch.cat(frames) if frames else empty, torch.cat(chosen) if chosen else empty, kept)


class WindowDataset:
    """Pieces of videos, read on demand in worker processes, each frame of a piece decoded once."""

    def __init__(
        self, records: Sequence[Record], windows: WindowConfig, config: DataConfig, picture: ImageSpec
    ) -> None:
        self.records = records
        self.windows = windows
        self.config = config
        self.picture = picture
        self.per_piece = windows_at_once(windows, config)
        self._open: tuple[int, Video] | None = None  # a long video, kept for its next piece

    def __getitem__(self, piece: Piece) -> Windows:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)  # it comes with the result
            try:
                found = self._read(piece, self._video(piece.place))
            except VideoError as error:
                self._close()
                return self._failed(piece, str(error))
        if piece.is_last:
            self._close()
        return found

    @property
    def window_bytes(self) -> int:
        """The size of one window's frames in memory."""
        views = self.config.views * self.config.transform.eval_crops
        return views * self.config.num_frames * 3 * self.picture.size**2 * 4

    def failed(self, piece: Piece, reason: str) -> Windows:
        """Return the result for a piece whose worker was lost."""
        return self._failed(piece, str(VideoError(self.records[piece.place].video, reason)))

    def _failed(self, piece: Piece, message: str) -> Windows:
        return Windows(piece, torch.empty(0), torch.empty(0), [], message, None)

    def _video(self, place: int) -> Video:
        if self._open is None or self._open[0] != place:
            self._close()
            self._open = place, open_video(self.records[place].video, self.config.decoder)
        return self._open[1]

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
        self._open = None

    def _read(self, piece: Piece, video: Video) -> Windows:
        record, config = self.records[piece.place], self.config
        spans: list[tuple[float, float]] = []
        chosen = torch.empty(0)

        def sampler(timeline: Timeline) -> Tensor:
            nonlocal spans, chosen
            begin = record.start_s or 0.0
            end_s = float(timeline.times_s[-1]) + 1 / timeline.fps
            duration_s = min(end_s, record.end_s or math.inf) - begin
            local = [
                self.windows.span(n, duration_s) for n in range(piece.first, self._stop(piece, duration_s))
            ]
            spans = [(begin + start_s, begin + end_s) for start_s, end_s in local]
            if not spans:
                return torch.zeros(1, dtype=torch.long)
            every = torch.stack([_frames_within(timeline, span, config) for span in spans])  # (W, V, T)
            numbers, chosen = every.unique(return_inverse=True)
            return numbers

        crops = eval_transform(config.transform, *self.picture)
        sample = video.sample(
            sampler,
            start_s=record.start_s,
            end_s=record.end_s,
            transform=lambda frame: crops(frame[None])[:, 0],  # (crops, 3, H, W')
        )
        return Windows(piece, sample.frames if spans else torch.empty(0), chosen, spans, None, sample.warning)

    def _stop(self, piece: Piece, duration_s: float) -> int:
        """The first window after the piece, by how long the video really is."""
        count = self.windows.count(duration_s)
        if not piece.is_last:
            return min(count, piece.first + self.per_piece)
        if count > piece.first + 2 * self.per_piece:
            video = self.records[piece.place].video
            raise VideoError(
                video, "it is far longer than its header says: `vactk data convert` repairs that"
            )
        return count


def _frames_within(timeline: Timeline, span: tuple[float, float], config: DataConfig) -> Tensor:
    """(V, T) numbers of the frames that stand for a window; at least one frame is in it: what is shown then."""
    first, stop = np.searchsorted(timeline.times_s.numpy(), np.array(span) - ROUNDING_S)
    if first >= stop:
        first = max(0, stop - 1)
    within = timeline.slice(int(first), max(int(first) + 1, int(stop)))
    return int(first) + config.sampling.indices(within, config.num_frames, config.views, train=False)


def windows_at_once(windows: WindowConfig, config: DataConfig) -> int:
    """Return how many windows are read together: as many as have the frames of `CHUNK` that share none."""
    sharing = min(MOST_SHARING, int(windows.length_s / windows.step_s + 1e-9)) if windows.length_s else 1
    room = (CHUNK + 1) * config.num_frames * config.views
    for count in range(sharing * CHUNK, CHUNK, -CHUNK):
        duration_s = (count - 1) * windows.step_s + windows.length_s
        times_s = torch.arange(math.ceil(duration_s * PLANNED_FPS), dtype=torch.float64) / PLANNED_FPS
        timeline = Timeline(times_s=times_s, fps=PLANNED_FPS)
        spans = (windows.span(number, duration_s) for number in range(count))
        if len(torch.cat([_frames_within(timeline, span, config) for span in spans]).unique()) <= room:
            return count
    return CHUNK


def read_whole(video: Path, config: DataConfig, picture: ImageSpec) -> NDArray[np.float32]:
    """Return the views of a video as a whole, (V, T, 3, H, W'). Raises VactkError."""
    read = WindowDataset([Record(video=video)], WindowConfig(), config, picture)[Piece(0, 0, True)]
    if read.error is not None:
        raise VactkError(read.error)
    views: NDArray[np.float32] = collate([read]).views(0, 1)[0].numpy()
    return views


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


def pieces(place: int, duration_s: float | None, windows: WindowConfig, per_piece: int) -> list[Piece]:
    """The pieces of a video that its header says to be so long; None: all in one."""
    starts = range(0, max(1, windows.count(duration_s or 0.0)), per_piece)
    return [Piece(place, first, first == starts[-1]) for first in starts]
