"""Small drawn videos, and a reading of whole videos that shares no code with vactk's."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CODEC_OPTIONS = {
    "libx264": {"bf": "2", "preset": "ultrafast", "x264-params": "b-adapt=0:b-pyramid=none"},
    "libx265": {
        "preset": "ultrafast",
        "x265-params": "log-level=none:bframes=2:open-gop=1:keyint=8:min-keyint=8",
    },
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12"},
}


def draw_frame(number: int, height: int, width: int) -> np.ndarray:
    """A bright square that wanders over a ramp whose tint changes. uint8 (H, W, 3)."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([rows * 255 // height, columns * 255 // width, 0 * rows + number * 7 % 256], axis=-1)
    side = min(height, width) // 3
    top, left = number * 3 % (height - side + 1), number * 5 % (width - side + 1)
    picture[top : top + side, left : left + side] = 255
    return picture.astype(np.uint8)


def write_video(
    path: Path,
    *,
    codec: str = "libx264",
    num_frames: int = 24,
    size: tuple[int, int] = (48, 64),
    keyframe_every: int = 8,
    times_s: Sequence[float] | None = None,
    rotation: int = 0,
    pix_fmt: str = "yuv420p",
    container_options: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Draws and encodes `num_frames` frames of (height, width) at 12 frames per second, or at given times."""
    height, width = size
    av.logging.set_level(av.logging.ERROR)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=12, options=CODEC_OPTIONS.get(codec, {}) | (options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.gop_size = keyframe_every
        stream.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        if times_s is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(draw_frame(number, height, width), format="rgb24")
            if times_s is not None:
                frame.pts, frame.time_base = round(times_s[number] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """A second of silence, without a picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for _ in range(16):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode_whole(path: Path, keep: set[int] | None = None) -> tuple[dict[int, np.ndarray], int]:
    """({frame number: uint8 (H, W, 3), upright}, number of frames) of a sequential decode up to its first error."""
    pictures, count = {}, 0
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        assert stream is not None
        try:
            for frame in container.decode(stream):
                if keep is None or count in keep:
                    turns = (frame.rotation // 90) % 4
                    pictures[count] = np.rot90(frame.to_ndarray(format="rgb24"), k=turns)
                count += 1
        except av.FFmpegError:
            pass
    return pictures, count
