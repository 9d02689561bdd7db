"""Decoding with decord, for files for which it was shown to be exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vactk.errors import VactkError
from vactk.video.container import VideoError, open_container
from vactk.video.decoders import FrameDecoder, PacketTableDecoder, TableError, frame_times, stated_clock
from vactk.video.packet_table import PacketTable, packet_table, parameter_sets_change
from vactk.video.sampling import Clock

DECORD_EXACT = {
    "yuv420p",
    "yuvj420p",
    "yuv422p",
    "yuvj422p",
    "yuv444p",
    "yuvj444p",
}  # by test; it converts others with different colours


class DecordDecoder:
    """Decodes with decord, for files whose packet table shows that its counting and seeking are exact."""

    failure: str | None = None
    size: tuple[int, int] | None = None  # decord rotates frames itself

    def __init__(self, path: str | Path, times_s: np.ndarray, clock: Clock | None) -> None:
        self._path, self.times_s, self.clock = path, times_s, clock
        try:
            import decord  # after PyAV, whose libvpx fails once decord's is loaded
        except ImportError as error:
            raise VactkError("decord is not installed; choose --decoder auto or pyav") from error
        decord.logging.set_level(decord.logging.QUIET)
        try:
            # With more threads it fails on VP9; it does not accept a Path.
            self._reader: Any = decord.VideoReader(str(Path(path).absolute()), num_threads=1)
        except Exception as error:  # DECORDError, RuntimeError: undocumented
            raise _decord_fails(path, error) from error
        if len(self._reader) != len(times_s):
            raise _decord_fails(path, ValueError(f"{len(self._reader)} frames, expected {len(times_s)}"))

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
    return VideoError(path, f"decord fails on it ({last_line}); choose --decoder auto or pyav")


def why_not_decord(container: InputContainer, stream: VideoStream, table: PacketTable | None) -> str | None:
    """Return the kind of file for which decord is not exact, or None where it is exact."""
    codec = stream.codec_context
    name = codec.codec.canonical_name
    if name not in {"h264", "vp8", "vp9"} or container.format.name.startswith("avi"):
        return f"{name} in {container.format.long_name or container.format.name}"
    if codec.pix_fmt not in DECORD_EXACT:
        return f"colours stored as {codec.pix_fmt}"
    if table is None or not table.is_closed:
        return "files with such time stamps, hidden frames or damage"
    if min(codec.height, codec.width) < 16:
        return "frames this small"
    if parameter_sets_change(container, stream):
        return "parameter sets that change"
    _, first = next(PacketTableDecoder(container, stream, table).pictures([0]))
    return "interlaced frames" if first.interlaced_frame else None  # it mixes the colours of their lines


def open_with_decord(path: str | Path) -> FrameDecoder:
    """Open a file with decord. Raises VideoError where decord is not exact for it, or fails."""
    container, stream = open_container(path)
    with container:
        table = packet_table(container, stream)
        try:
            why_not = why_not_decord(container, stream, table)
        except TableError:
            why_not = "damaged files"
        if table is None or why_not is not None:
            raise VideoError(path, f"decord is not exact for {why_not}; choose --decoder auto or pyav")
        times_s = frame_times(table, stream)
        clock = stated_clock(stream, table.shown_at[table.order].tolist(), times_s)
        return DecordDecoder(path, times_s, clock)
