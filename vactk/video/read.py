"""Reads chosen frames of a video: the frames returned are the frames asked for, always.

Frame i is the i-th picture shown in a whole sequential decode by PyAV, turned upright. PyAV reads everything:
with the packet table it is as fast as decord or faster wherever decord is exact. decord is there to be asked
for, and refuses the files for which it is not exact.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from vactk.errors import VactkError, pick
from vactk.video.container import VideoError, VideoWarning, open_container
from vactk.video.packets import PacketTable, packet_table, parameter_sets_change
from vactk.video.pictures import RGBConverter
from vactk.video.sampling import Clock
from vactk.video.sources import (
    Source,
    TableError,
    TableSource,
    WholeSource,
    frame_times,
    mean_rate,
    stated_clock,
    stored_size,
)

ROUNDING_S = 0.0005  # Matroska's time stamps are rounded to milliseconds
DECORD_EXACT = {
    "yuv420p",
    "yuvj420p",
    "yuv422p",
    "yuvj422p",
    "yuv444p",
    "yuvj444p",
}  # by test; others it reads with other colours
TURNED = "its pictures are turned in different ways"


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The frames a sampler chooses from: those of the window, numbered from 0."""

    times_s: Tensor  # (num_frames,) float64, since the start of the video
    fps: float  # average over the whole video
    stated: Clock | None = None  # what the container says of its time; None: nothing of use

    @property
    def num_frames(self) -> int:
        return len(self.times_s)

    @property
    def clock(self) -> Clock:
        """What the container says, or else what the times of the frames do."""
        return self.stated or Clock(stamps=torch.arange(self.num_frames), rate=self.fps)

    def part(self, first: int, stop: int) -> Timeline:
        """Some of the frames, as a timeline of their own; times stay those of the video."""
        stated = None if self.stated is None else self.stated.part(first, stop)
        return replace(self, times_s=self.times_s[first:stop], stated=stated)


Sampler = Callable[[Timeline], Tensor]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Frames of one video."""

    frames: Tensor  # (N, 3, H, W) uint8, in the order that was asked for
    times_s: Tensor  # (N,) float64, since the start of the video
    num_frames: int  # of the whole video, as far as it decodes
    warning: str | None = None  # what is wrong with the video, if only a part of it decodes

    @property
    def complete(self) -> bool:
        return self.warning is None


class Video:
    """An open video. Not for use in another process than the one that opened it: close it, open it there."""

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
        """(num_frames,) float64: when each frame is shown, in seconds; the first at 0."""
        return torch.from_numpy(self._source.times_s)

    @property
    def fps(self) -> float:
        """Frames per second on average; 25 for a single frame."""
        return mean_rate(self._source.times_s)

    @property
    def timeline(self) -> Timeline:
        """All frames, for a sampler to choose from."""
        return Timeline(times_s=self.times_s, fps=self.fps, stated=self._source.clock)

    @property
    def height(self) -> int:
        """Of the upright picture, in pixels as stored (pixels that are not square are not stretched)."""
        return self._size[0]

    @property
    def width(self) -> int:
        return self._size[1]

    @property
    def duration_s(self) -> float:
        """Until the last frame goes, as far as is known, in seconds."""
        return float(self._source.times_s[-1]) + 1 / self.fps

    @cached_property
    def pixel_aspect(self) -> float:
        """Width / height of a pixel of the upright picture: 1 but for some broadcasts and films."""
        container, stream = open_container(self.path)
        with container:
            aspect = float(stream.sample_aspect_ratio or 1)
            is_turned = aspect != 1 and stored_size(stream) not in (None, self._size)
        return 1 / aspect if is_turned else aspect

    @property
    def warning(self) -> str | None:
        """What is wrong with the video, if only a part of it decodes, as far as is known."""
        failure = self._source.failure
        only = f"only the first {self.num_frames} frames of '{self.path}' decode"
        return None if failure is None else f"{only} ({failure})"

    def read(self, indices: Tensor | Sequence[int], short_side: int | None = None) -> Tensor:
        """Frames by number, in any order, repeats allowed -> uint8 (N, 3, H, W), 0 to 255, upright.

        With `short_side` they are scaled to it, the aspect kept. In memory the channels come last. Raises
        VideoError where one does not decode, ValueError for numbers that the video has not.
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
    ) -> Sample:
        """The frames that `sampler` chooses in [start_s, end_s); see `sample_video`."""
        try:
            return self._sample(sampler, short_side, start_s, end_s)
        except TableError:
            self._decode_whole()
        return self._sample(sampler, short_side, start_s, end_s)

    def stream(
        self, *, start_s: float | None = None, end_s: float | None = None, short_side: int | None = None
    ) -> Iterator[tuple[float, Tensor]]:
        """(seconds, uint8 (3, H, W)) of every frame in [start_s, end_s), upright, each decoded once, one held.

        Raises VideoError where the window holds nothing.
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
                raise VideoError(self.path, TURNED)
            yield float(self._source.times_s[number]), torch.from_numpy(rgb).permute(2, 0, 1)  # (3, H, W)

    def _sample(
        self, sampler: Sampler, short_side: int | None, start_s: float | None, end_s: float | None
    ) -> Sample:
        first, stop = self._window(start_s, end_s)
        chosen = first + _frame_numbers(sampler(self.timeline.part(first, stop)), stop - first)
        return Sample(
            frames=self._frames(chosen, short_side),
            times_s=self.times_s[chosen],
            num_frames=self.num_frames,
            warning=self.warning,
        )

    def _window(self, start_s: float | None, end_s: float | None) -> tuple[int, int]:
        """The first frame of the window, and the first after it."""
        times_s, duration_s = self._source.times_s, self.duration_s
        start_s, end_s = start_s or 0.0, duration_s if end_s is None else end_s
        if not start_s < end_s or start_s >= duration_s or end_s <= 0:
            span = f"{start_s:g} to {end_s:g} s"
            raise VideoError(self.path, f"no frames from {span}: it lasts {duration_s:.2f} s")
        first, stop = np.searchsorted(times_s, np.array([start_s, end_s]) - ROUNDING_S)
        if first >= stop:  # between two frames: the one on screen then
            first = max(0, stop - 1)
        return int(first), max(int(first) + 1, int(stop))

    def _frames(self, chosen: Tensor, short_side: int | None) -> Tensor:
        """Frames by number, uint8 (N, 3, H, W). Raises TableError."""
        slots: dict[int, list[int]] = {}  # where each frame goes
        for slot, frame in enumerate(chosen.tolist()):
            slots.setdefault(frame, []).append(slot)
        convert = RGBConverter(self._source.size, short_side)
        frames = np.empty((0, 0, 0, 3), np.uint8)
        for frame, picture in self._source.pictures(sorted(slots)):
            rgb = convert(picture)
            if not len(frames):
                frames = np.empty((len(chosen), *rgb.shape), np.uint8)
            if rgb.shape != frames.shape[1:]:
                raise VideoError(self.path, TURNED)
            for slot in slots[frame]:
                frames[slot] = rgb
        return torch.from_numpy(frames).permute(0, 3, 1, 2)  # (N, 3, H, W)

    @cached_property
    def _size(self) -> tuple[int, int]:
        height, width = self.read([0]).shape[-2:]
        return height, width

    def _decode_whole(self) -> None:
        """The packet table was wrong: count and read by decoding everything from the start."""
        self._source.close()
        self._source = WholeSource(self.path)
        self._warn_of_failure()

    def _warn_of_failure(self) -> None:
        if self.warning is not None:
            warnings.warn(self.warning, VideoWarning, stacklevel=4)


def open_video(path: str | Path, decoder: str = "auto") -> Video:
    """Opens a video for reading frames by number: `with open_video(path) as video: video.read([0, 5])`.

    Raises VideoError where no frame can be read or the decoder that was asked for is not exact.
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
    """Opens a video, asks `sampler` which frames of the window [start_s, end_s) to take, reads them.

    The sampler gets the window's Timeline and returns frame numbers in it, of any shape; they come back
    flattened. Where only the first part of a video decodes, it is asked again for that part: a VideoWarning
    is given and recorded. Raises VideoError where nothing can be read.
    """
    with open_video(path, decoder) as video:
        return video.sample(sampler, short_side=short_side, start_s=start_s, end_s=end_s)


def _frame_numbers(indices: Tensor | Sequence[int], num_frames: int) -> Tensor:
    numbers = torch.as_tensor(indices).flatten()
    if not len(numbers) or numbers.is_floating_point() or numbers.is_complex():
        raise ValueError(f"frame numbers must be integers, at least one, not {indices!r}")
    if numbers.min() < 0 or numbers.max() >= num_frames:
        raise ValueError(f"frame numbers must be from 0 to {num_frames - 1}, not {indices!r}")
    return numbers.long()


class DecordSource:
    """Reads with decord. A table has shown that its ways of counting and seeking are exact for the file."""

    failure: str | None = None
    size: tuple[int, int] | None = None  # decord turns pictures by itself

    def __init__(self, path: str | Path, times_s: np.ndarray, clock: Clock | None) -> None:
        self._path, self.times_s, self.clock = path, times_s, clock
        try:
            import decord  # after PyAV, whose libvpx fails once decord's is there
        except ImportError as error:
            raise VactkError("decord is not installed here: choose --decoder auto or pyav") from error
        decord.logging.set_level(decord.logging.QUIET)
        try:
            # With more threads it fails on VP9; it takes no Path.
            self._reader: Any = decord.VideoReader(str(Path(path).absolute()), num_threads=1)
        except Exception as error:  # DECORDError, RuntimeError: decord promises no types
            raise _decord_fails(path, error) from error
        if len(self._reader) != len(times_s):
            raise _decord_fails(path, ValueError(f"{len(self._reader)} frames, not {len(times_s)}"))

    def pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        for at in range(0, len(wanted), 16):
            frames = wanted[at : at + 16]
            try:
                batch = self._reader.get_batch(frames).asnumpy()  # (n, H, W, 3)
            except Exception as error:
                raise _decord_fails(self._path, error) from error
            for frame, picture in zip(frames, batch, strict=True):
                yield frame, VideoFrame.from_ndarray(picture, format="rgb24")

    def close(self) -> None:
        self._reader = None


def _decord_fails(path: str | Path, error: Exception) -> VideoError:
    last_line = (str(error).strip().splitlines() or ["no reason given"])[-1]
    return VideoError(path, f"decord fails on it ({last_line}): choose --decoder auto or pyav")


def _why_not_decord(container: InputContainer, stream: VideoStream, table: PacketTable | None) -> str | None:
    codec = stream.codec_context
    name = codec.codec.canonical_name
    if name not in {"h264", "vp8", "vp9"} or container.format.name.startswith("avi"):
        return f"{name} in {container.format.long_name or container.format.name}"
    if codec.pix_fmt not in DECORD_EXACT:
        return f"colours stored as {codec.pix_fmt}"
    if table is None or not table.is_closed:
        return "files with such time stamps, hidden frames or damage"
    if min(codec.height, codec.width) < 16:
        return "pictures this small"
    if parameter_sets_change(container, stream):
        return "parameter sets that change on the way"
    _, first = next(TableSource(container, stream, table).pictures([0]))
    return "interlaced pictures" if first.interlaced_frame else None  # it mixes the colours of their lines


def _open_with_decord(path: str | Path) -> Source:
    container, stream = open_container(path)
    with container:
        table = packet_table(container, stream)
        try:
            why_not = _why_not_decord(container, stream, table)
        except TableError:
            why_not = "damaged files"
        if table is None or why_not is not None:
            raise VideoError(path, f"decord is not exact for {why_not}: choose --decoder auto or pyav")
        times_s = frame_times(table, stream)
        clock = stated_clock(stream, table.shown_at[table.order].tolist(), times_s)
        return DecordSource(path, times_s, clock)


def _open_with_pyav(path: str | Path) -> Source:
    container, stream = open_container(path)
    table = packet_table(container, stream)
    if table is not None:
        return TableSource(container, stream, table)
    container.close()
    return WholeSource(path)


DECODERS: dict[str, Callable[[str | Path], Source]] = {
    "auto": _open_with_pyav,
    "decord": _open_with_decord,
    "pyav": _open_with_pyav,
}
