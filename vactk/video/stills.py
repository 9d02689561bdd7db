"""Frames of a video as images, as a player displays them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vactk.video.container import VideoWarning
from vactk.video.reader import ROUNDING_S, Video, open_video


def stills(video: Path, times_s: Sequence[float], height: int) -> tuple[list[Image.Image], list[float]]:
    """Return the frames displayed at `times_s`, at most about `height` pixels high, and their own times.

    Times outside the video are clamped. Raises VideoError if it cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)  # a truncated video is read as far as it goes
        with open_video(video) as source:
            frame_times_s = source.times_s.numpy()
            on_screen = np.searchsorted(frame_times_s, np.asarray(times_s) + ROUNDING_S, side="right") - 1
            frames = np.maximum(on_screen, 0)
            short_side = min(source.height, source.width, height)
            pictures = source.read(frames.tolist(), short_side).permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
            images = [_square_pixels(Image.fromarray(picture), source) for picture in pictures]
    return images, frame_times_s[frames].tolist()


def _square_pixels(image: Image.Image, source: Video) -> Image.Image:
    if source.pixel_aspect == 1:
        return image
    width = max(1, round(image.width * source.pixel_aspect))
    return image.resize((width, image.height), Image.Resampling.BICUBIC)
