"""Converting decoded frames to upright RGB arrays.

Mostly with numpy: torch uses several threads even for small copies, which is slow where cores are few.
"""

from __future__ import annotations

import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from torch.nn import functional as F

# At this factor of reduction or more FFmpeg's scaler is faster, as it does not convert all pixels (14% of a read
# from 1080p to 224).
FAST_REDUCTION = 3


def scaled_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """Return (height, width) with the short side scaled to `short_side`, the other rounded as in torchvision."""
    if short_side is None:
        return height, width
    if height <= width:
        return short_side, max(1, int(short_side * width / height))
    return max(1, int(short_side * height / width)), short_side


class RGBConverter:
    """Converts frames to RGB of one size; reused, it keeps the scaler's tables."""

    def __init__(self, size: tuple[int, int] | None, short_side: int | None) -> None:
        self._size = size  # (height, width) before scaling and rotation; None: the first frame's
        self._short_side = short_side
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """Convert a frame to uint8 (H, W, 3), upright, 0 to 255."""
        self._size = self._size or (frame.height, frame.width)
        size = scaled_size(*self._size, self._short_side)
        if min(self._size) >= FAST_REDUCTION * min(size):
            pixels = self._convert(frame, size, Interpolation.BICUBIC)
        else:
            pixels = _resize(self._convert(frame, self._size, Interpolation.BILINEAR), size)
        return _rotate(pixels, quarter_turns(frame))

    def _convert(self, frame: VideoFrame, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
        height, width = size
        rgb = self._reformatter.reformat(
            frame, width, height, format="rgb24", interpolation=interpolation, threads=1
        )
        return rgb.to_ndarray()


def _resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) -> (H', W', 3), bicubic and antialiased, as CLIP's preprocessing does."""
    if pixels.shape[:2] == size:
        return pixels
    frames = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, 3, H, W)
    return F.interpolate(frames, size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()


def _rotate(pixels: np.ndarray, turns: int) -> np.ndarray:
    """Rotate counter-clockwise by quarter turns, pixel by pixel, twice as fast as byte by byte."""
    if not turns:
        return pixels
    whole = np.ascontiguousarray(pixels).view("V3")[..., 0]  # (H, W) of three bytes
    return np.ascontiguousarray(np.rot90(whole, turns))[..., None].view(np.uint8)


def quarter_turns(frame: VideoFrame) -> int:
    """Return the number of counter-clockwise quarter turns that make the frame upright, 0 to 3."""
    return round(frame.rotation / 90) % 4
