"""Frame-exact reading of videos.

Frame i is the i-th frame shown in a sequential decode by PyAV, rotated upright. PyAV reads all files; with the
packet table it is at least as fast as decord wherever decord is exact. decord can be chosen, and refuses files for
which it is not exact.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from vactk.errors import pick
from vactk.video.container import VideoError, VideoWarning, open_container
from vactk.video.decoders import (
    FrameDecoder,
    PacketTableDecoder,
    SequentialDecoder,
    TableError,
    mean_rate,
    stored_size,
)
from vactk.video.decord_decoder import open_with_decord
from vactk.video.packet_table import packet_table
from vactk.video.rgb import RGBConverter
from vactk.video.sampling import Clock

ROUNDING_S = 0.0005  # Matroska's time stamps are rounded to milliseconds
MIXED_ROTATION = "its frames have different rotations"


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The frames that a sampler chooses from: those of a time window, numbered from 0."""

    times_s: Tensor  # (num_frames,) float64, since the start of the video
    fps: float  # mean over the whole video
    stated: Clock | None = None  # the container's own times; None where frames have no time stamps

    @property
    def num_frames(self) -> int:
        return len(self.times_s)

    @property
    def clock(self) -> Clock:
        """The container's own times, or else evenly spaced ones."""
        return self.stated or Clock(stamps=torch.arange(self.num_frames), rate=self.fps)

    def slice(self, first: int, stop: int) -> Timeline:
        """Return the timeline of frames [first, stop); times stay those of the video."""
        stated = None if self.stated is None else self.stated.slice(first, stop)
        return replace(self, times_s=self.times_s[first:stop], stated=stated)


Sampler = Callable[[Timeline], Tensor]
FrameTransform = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Frames read from one video."""

    frames: Tensor  # (N, 3, H, W) uint8 or, with a transform, (N, ...), in the requested order
    times_s: Tensor  # (N,) float64, since the start of the video
    num_frames: int  # in the whole video, as far as it decodes
    warning: str | None = None  # the reason, if only a part of the video decodes

    @property
    def complete(self) -> bool:
        return self.warning is None


class Video:
    """An open video. It cannot be used in other processes than the one that opened it."""

    def __init__(self, path: str | Path, decoder: str = "auto") -> None:
        """Raises VideoError where no frame can be read, VactkError for an unknown decoder."""
        self.path = path
        self._source = pick(DECODERS, decoder, "decoder")(path)
        self._warn_of_failure()

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._source.close()

    @property
    def num_frames(self) -> int:
        return len(self._source.times_s)

    @property
    def times_s(self) -> Tensor:
        """Presentation time of each frame in seconds, float64 (num_frames,); the first at 0."""
        return torch.from_numpy(self._source.times_s)

    @property
    def fps(self) -> float:
        """Mean frame rate; 25 for a single frame."""
        return mean_rate(self._source.times_s)

    @property
    def timeline(self) -> Timeline:
        """All frames, for a sampler to choose from."""
        return Timeline(times_s=self.times_s, fps=self.fps, stated=self._source.clock)

    @property
    def height(self) -> int:
        """Height of the upright frame in stored pixels (frames with non-square pixels are not stretched)."""
        return self._size[0]

    @property
    def width(self) -> int:
        """Width of the upright frame in stored pixels."""
        return self._size[1]

    @property
    def duration_s(self) -> float:
        """Estimated time of the end of the last frame, in seconds."""
        return float(self._source.times_s[-1]) + 1 / self.fps

    @cached_property
    def pixel_aspect(self) -> float:
        """Width / height of a pixel of the upright frame; not 1 in some broadcasts and films."""
        container, stream = open_container(self.path)
        with container:
            aspect = float(stream.sample_aspect_ratio or 1)
            is_turned = aspect != 1 and stored_size(stream) not in (None, self._size)
        return 1 / aspect if is_turned else aspect

    @property
    def warning(self) -> str | None:
        """The reason, if only a part of the video decodes, as far as is known."""
        failure = self._source.failure
        only = f"only the first {self.num_frames} frames of '{self.path}' decode"
        return None if failure is None else f"{only} ({failure})"

    def read(self, indices: Tensor | Sequence[int], short_side: int | None = None) -> Tensor:
        """Read frames by number, in any order, repeats allowed -> uint8 (N, 3, H, W), 0 to 255, upright.

        With `short_side` they are resized to it, keeping the aspect. In memory the channels come last. Raises
        VideoError where one does not decode, ValueError for numbers out of range.
        """
        chosen = _frame_numbers(indices, self.num_frames)
        try:
            return self._frames(chosen, short_side)
        except TableError:
            self._decode_whole()
        if chosen.max() >= self.num_frames:
            raise VideoError(self.path, f"frame {chosen.max()} is missing, only {self.num_frames} decode")
        return self._frames(chosen, short_side)

    def sample(
        self,
        sampler: Sampler,
        *,
        short_side: int | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        transform: FrameTransform | None = None,
    ) -> Sample:
        """Read the frames that `sampler` chooses in [start_s, end_s); see `sample_video`.

        `transform`: applied to each frame, uint8 (3, H, W), as it is decoded; the sample's frames are its results.
        """
        try:
            return self._sample(sampler, short_side, start_s, end_s, transform)
        except TableError:
            self._decode_whole()
        return self._sample(sampler, short_side, start_s, end_s, transform)

    def stream(
        self, *, start_s: float | None = None, end_s: float | None = None, short_side: int | None = None
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield (seconds, uint8 (3, H, W)) of every frame in [start_s, end_s), upright, each decoded once.

        Raises VideoError where the window is empty.
        """
        shown_s = -np.inf
        while True:
            try:
                for time_s, frame in self._stream(start_s, end_s, short_side):
                    if time_s > shown_s:
                        shown_s = time_s
                        yield time_s, frame
            except TableError:
                self._decode_whole()
            else:
                return

    def _stream(
        self, start_s: float | None, end_s: float | None, short_side: int | None
    ) -> Iterator[tuple[float, Tensor]]:
        convert, shape = RGBConverter(self._source.size, short_side), None
        for number, picture in self._source.pictures(range(*self._window(start_s, end_s))):
            rgb = convert(picture)
            shape = shape or rgb.shape
            if rgb.shape != shape:
                raise VideoError(self.path, MIXED_ROTATION)
            yield float(self._source.times_s[number]), torch.from_numpy(rgb).permute(2, 0, 1)  # (3, H, W)

    def _sample(
        self,
        sampler: Sampler,
        short_side: int | None,
        start_s: float | None,
        end_s: float | None,
        transform: FrameTransform | None,
    ) -> Sample:
        first, stop = self._window(start_s, end_s)
        chosen = first + _frame_numbers(sampler(self.timeline.slice(first, stop)), stop - first)
        return Sample(
            frames=self._frames(chosen, short_side, transform),
            times_s=self.times_s[chosen],
            num_frames=self.num_frames,
            warning=self.warning,
        )

    def _window(self, start_s: float | None, end_s: float | None) -> tuple[int, int]:
        """Return (first frame of the window, first frame after it)."""
        times_s, duration_s = self._source.times_s, self.duration_s
        start_s, end_s = start_s or 0.0, duration_s if end_s is None else end_s
        if not start_s < end_s or start_s >= duration_s or end_s <= 0:
            span = f"{start_s:g} to {end_s:g} s"
            raise VideoError(self.path, f"no frames from {span}: it lasts {duration_s:.2f} s")
        first, stop = np.searchsorted(times_s, np.array([start_s, end_s]) - ROUNDING_S)
        if first >= stop:  # between two frames: the one on screen then
            first = max(0, stop - 1)
        return int(first), max(int(first) + 1, int(stop))

    def _frames(
        self, chosen: Tensor, short_side: int | None, transform: FrameTransform | None = None
    ) -> Tensor:
        """Decode frames by number, uint8 (N, 3, H, W), or what becomes of each. Raises TableError."""
        slots: dict[int, list[int]] = {}  # {frame: indices into the result}
        for slot, frame in enumerate(chosen.tolist()):
            slots.setdefault(frame, []).append(slot)
        convert, shape = RGBConverter(self._source.size, short_side), None
        frames = np.empty(0, np.uint8)
        for frame, picture in self._source.pictures(sorted(slots)):
            rgb = convert(picture)
            shape = shape or rgb.shape
            if rgb.shape != shape:
                raise VideoError(self.path, MIXED_ROTATION)
            kept = rgb if transform is None else transform(torch.from_numpy(rgb).permute(2, 0, 1)).numpy()
            if not len(frames):
                frames = np.empty((len(chosen), *kept.shape), kept.dtype)
            for slot in slots[frame]:
                frames[slot] = kept
        found = torch.from_numpy(frames)
        return found.permute(0, 3, 1, 2) if transform is None else found  # (N, 3, H, W), or of its shape

    @cached_property
    def _size(self) -> tuple[int, int]:
        height, width = self.read([0]).shape[-2:]
        return height, width

    def _decode_whole(self) -> None:
        """Switch to sequential decoding, after the packet table proved wrong."""
        self._source.close()
        self._source = SequentialDecoder(self.path)
        self._warn_of_failure()

    def _warn_of_failure(self) -> None:
        if self.warning is not None:
            warnings.warn(self.warning, VideoWarning, stacklevel=4)


def open_video(path: str | Path, decoder: str = "auto") -> Video:
    """Open a video for reading frames by number: `with open_video(path) as video: video.read([0, 5])`.

    Raises VideoError where no frame can be read, or where `decoder` is not exact for the file.
    """
    return Video(path, decoder)


def sample_video(
    path: str | Path,
    sampler: Sampler,
    *,
    decoder: str = "auto",
    short_side: int | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
) -> Sample:
    """Open a video and read the frames that `sampler` chooses in the window [start_s, end_s).

    The sampler takes the window's Timeline and returns frame numbers in it, of any shape, which are flattened.
    Where only the beginning of a video decodes, it samples from that, with a VideoWarning that is also recorded.
    Raises VideoError where nothing can be read.
    """
    with open_video(path, decoder) as video:
        return video.sample(sampler, short_side=short_side, start_s=start_s, end_s=end_s)


def _frame_numbers(indices: Tensor | Sequence[int], num_frames: int) -> Tensor:
    numbers = torch.as_tensor(indices).flatten()
    if not len(numbers) or numbers.is_floating_point() or numbers.is_complex():
        raise ValueError(f"frame numbers must be integers, at least one, got {indices!r}")
    if numbers.min() < 0 or numbers.max() >= num_frames:
        raise ValueError(f"frame numbers must be from 0 to {num_frames - 1}, got {indices!r}")
    return numbers.long()


def _open_with_pyav(path: str | Path) -> FrameDecoder:
    container, stream = open_container(path)
    table = packet_table(container, stream)
    if table is not None:
        return PacketTableDecoder(container, stream, table)
    container.close()
    return SequentialDecoder(path)


DECODERS: dict[str, Callable[[str | Path], FrameDecoder]] = {
    "auto": _open_with_pyav,
    "decord": open_with_decord,
    "pyav": _open_with_pyav,
}
