"""Decoding chosen frames with PyAV: by seeking with a packet table, or sequentially from the start."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import torch
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vactk.video.container import VideoError, open_container, reason
from vactk.video.packet_table import PacketTable
from vactk.video.sampling import Clock

MAX_KEPT_BYTES = 64 * 2**20  # of decoded frames in memory: 9 s of 320 x 240 at 60 frames per second


class TableError(Exception):
    """Decoding contradicts the packet table."""


class FrameDecoder(Protocol):
    """Decodes frames of one video by number."""

    times_s: np.ndarray  # (N,) float64, presentation time of each frame, from 0
    clock: Clock | None  # the container's own times; None where frames have no time stamps
    size: tuple[int, int] | None  # stored (height, width); None: that of the first frame read
    failure: str | None  # why decoding stopped before the end

    def pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield (frame number, frame) for each of `wanted`, which are sorted and distinct, in that order."""
        ...

    def close(self) -> None: ...


class PacketTableDecoder:
    """Decodes runs of packets around the wanted frames, each from the nearest point where decoding can start.

    Frames are recognised by their time stamps. Raises TableError where one does not appear.
    """

    failure: str | None = None

    def __init__(self, container: InputContainer, stream: VideoStream, table: PacketTable) -> None:
        self._container, self._stream, self._table = container, stream, table
        self._codec = stream.codec_context
        # Concealment of damage depends on earlier frames, some of which are skipped here: make damage an error.
        self._codec.options = {"err_detect": "explode"}
        self.size = stored_size(stream)
        self._packets: Iterator[Packet] = iter(())
        self._next_row = -1  # row of the next packet in the table, -1 before the first seek
        self.times_s = frame_times(table, stream)
        self.clock = stated_clock(stream, table.shown_at[table.order].tolist(), self.times_s)

    def pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        for start, frames in self._runs(wanted):
            try:
                yield from self._decode(start, frames)
            except (av.FFmpegError, OSError) as error:
                raise TableError(reason(error)) from error

    def close(self) -> None:
        self._container.close()

    def _runs(self, wanted: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield (first packet, frames) of each run that is decoded without seeking."""
        start, last, run = -1, -1, list[int]()
        for frame in wanted:
            frame_start = self._table.start_for(frame)
            if run and frame_start > last + 1:
                yield start, run
                run = []
            start = start if run else frame_start
            run.append(frame)
            last = max(last, int(self._table.order[frame]))
        if run:
            yield start, run

    def _decode(self, start: int, frames: list[int]) -> Iterator[tuple[int, VideoFrame]]:
        missing = {int(self._table.shown_at[self._table.order[frame]]): frame for frame in frames}
        if self._codec.is_open:
            self._codec.flush_buffers()
        last = max(int(self._table.order[frame]) for frame in frames)
        for picture in self._feed(start, last, set(missing)):
            if picture.is_corrupt:
                raise TableError("frames are damaged")
            frame_number = missing.pop(picture.pts, None) if picture.pts is not None else None
            if frame_number is not None:
                yield frame_number, picture
            if not missing:
                return
        raise TableError("frames are missing")

    def _feed(self, start: int, last: int, wanted: set[int]) -> Iterator[VideoFrame]:
        """Yield what the decoder returns for the packets from `start` to `last`."""
        skips = self._codec.codec.canonical_name == "h264"  # the only codec with exact reference marks
        for packet in self._packets_from(start, last):
            if skips:  # frames that no other frame refers to
                self._codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            yield from self._codec.decode(packet)
        yield from self._codec.decode(None)

    def _packets_from(self, start: int, last: int) -> Iterator[Packet]:
        if self._next_row != start:
            self._seek(start)
        for row, packet in zip(range(start, last + 1), self._packets, strict=False):
            if packet.pts != self._table.shown_at[row]:
                raise TableError("packets are missing")
            self._next_row = row + 1
            yield packet

    def _seek(self, start: int) -> None:
        self._container.seek(int(self._table.seek_to[start]), stream=self._stream)
        packets = self._container.demux(self._stream)
        for packet in packets:
            if packet.pts == self._table.shown_at[start]:
                self._packets = chain([packet], packets)
                return
        raise TableError("packets are missing")


class SequentialDecoder:
    """Decodes from the start. Frames are kept in memory from the first, counting pass if they fit."""

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self.failure: str | None = None
        self._kept: list[VideoFrame] | None = []
        kept_bytes, stamps = 0, list[int | None]()
        container, stream = open_container(path)
        self.size = stored_size(stream)
        with container:
            for picture in self._decode(container, stream):
                stamps.append(picture.pts)
                kept_bytes += sum(plane.buffer_size for plane in picture.planes)
                if self._kept is not None:
                    picture.make_writable()  # copied: the decoder may write a second field into it
                    self._kept.append(picture)
                if kept_bytes > MAX_KEPT_BYTES:
                    self._kept = None
            if not stamps:
                raise VideoError(path, "no frame decodes" + (f" ({self.failure})" if self.failure else ""))
            rate = float(stream.guessed_rate or stream.average_rate or 25)
            self.times_s = _times(stamps, float(stream.time_base or 0), rate)
            self.clock = stated_clock(stream, stamps, self.times_s)

    def pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        if self._kept is not None:
            yield from ((frame, self._kept[frame]) for frame in wanted)
            return
        container, stream = open_container(self._path)
        left = set(wanted)
        with container, contextlib.closing(self._decode(container, stream)) as pictures:
            for frame, picture in enumerate(pictures):
                if frame in left:
                    left.remove(frame)
                    yield frame, picture
                if not left:
                    return
        raise VideoError(self._path, "it changed while being read")

    def close(self) -> None:
        self._kept = None

    def _decode(self, container: InputContainer, stream: VideoStream) -> Generator[VideoFrame, None, None]:
        try:
            yield from container.decode(stream)
        except (av.FFmpegError, OSError) as error:
            self.failure = reason(error)


def frame_times(table: PacketTable, stream: VideoStream) -> np.ndarray:
    """Return the presentation time of each frame in seconds, float64 (N,), the first at 0."""
    shown_at = table.shown_at[table.order]
    return (shown_at - shown_at[0]) * float(stream.time_base or 0)


def stated_clock(stream: VideoStream, stamps: Sequence[int | None], times_s: np.ndarray) -> Clock | None:
    """Return the clock of a stream; the mean of `times_s` replaces a frame rate missing in the header."""
    if None in stamps:
        return None
    stated = float(stream.average_rate or 0)
    return Clock(
        stamps=torch.tensor(stamps),
        rate=stated or mean_rate(times_s),
        rate_is_stated=stated > 0,
        stated_frames=stream.frames,
        stated_ticks=stream.duration or 0,
    )


def mean_rate(times_s: np.ndarray) -> float:
    """Return the mean frame rate; 25 for a single frame."""
    span_s = times_s[-1]
    return float((len(times_s) - 1) / span_s) if span_s > 0 else 25.0


def stored_size(stream: VideoStream) -> tuple[int, int] | None:
    """Return the header's (height, width), to which all frames are scaled, or None where it has none."""
    codec = stream.codec_context
    return (codec.height, codec.width) if codec.height > 0 and codec.width > 0 else None


def _times(stamps: list[int | None], time_base: float, rate: float) -> np.ndarray:
    """Return times by the time stamps, or evenly spaced where these are missing or out of order, as in AVI."""
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) == len(stamps) and all(before < after for before, after in pairwise(known)):
        return (np.array(known) - known[0]) * time_base
    return np.arange(len(stamps)) / rate
