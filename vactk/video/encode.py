"""Encoding RGB frames as H.264, which every player and browser shows."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer

TIME_BASE = Fraction(1, 90000)
FASTSTART = {"movflags": "+faststart"}  # container option: the index first, so that it plays while it loads


class H264Stream:
    """The video stream of an MP4 file, fed with RGB frames of one size and their times."""

    def __init__(
        self,
        output: OutputContainer,
        size: tuple[int, int],
        *,
        fps: float,
        crf: int,
        keyframe_every: int,
        pixel_aspect: float = 1.0,
        threads: int = 1,
    ) -> None:
        """`size`: (height, width) of the frames."""
        self._output = output
        height, width = size
        self._stream = output.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        self._stream.height, self._stream.width = height + height % 2, width + width % 2  # 4:2:0
        self._stream.pix_fmt = "yuv420p"
        self._stream.gop_size = keyframe_every
        self._stream.options = {"crf": str(crf), "preset": "veryfast", "bf": "0"}
        self._stream.codec_context.thread_count = threads
        self._stream.codec_context.time_base = TIME_BASE
        if pixel_aspect != 1:
            self._stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect).limit_denominator(255)
        self._durations: dict[int, int] = {}  # by time stamp, in ticks

    def add(self, rgb: np.ndarray, time_s: float, until_s: float | None = None) -> None:
        """Add a frame, uint8 (H, W, 3), shown from `time_s` until the next one; the last one until `until_s`.

        Odd sizes are padded with the last row and column.
        """
        spare = self._stream.height - rgb.shape[0], self._stream.width - rgb.shape[1]
        padded = np.pad(rgb, ((0, spare[0]), (0, spare[1]), (0, 0)), "edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        frame.pts, frame.time_base = round(time_s / TIME_BASE), TIME_BASE
        if until_s is not None:
            self._durations[frame.pts] = max(1, round(until_s / TIME_BASE) - frame.pts)
        self._mux(frame)

    def close(self) -> None:
        """Flush the encoder. The container closes the file."""
        self._mux(None)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            if packet.pts in self._durations:
                packet.duration = self._durations.pop(packet.pts)
            self._output.mux(packet)
