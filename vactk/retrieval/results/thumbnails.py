"""Frames of hits as still pictures, as a player shows them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from vactk.data.isolated_read import TIMEOUT_S, read_isolated
from vactk.retrieval.hits import Hit
from vactk.video.container import VideoWarning
from vactk.video.reader import ROUNDING_S, Video, open_video


def hit_stills(
    hit: Hit, count: int, height: int, *, timeout_s: float = TIMEOUT_S
) -> tuple[list[Image.Image], list[float]]:
    """`count` frames in the middle of equal parts of a hit, and their times in seconds.

    Raises VideoError where the video cannot be read, or not in time.
    """
    part_s = (hit.end_s - hit.start_s) / count
    times_s = [hit.start_s + (i + 0.5) * part_s for i in range(count)]
    return read_isolated(partial(stills, times_s=times_s, height=height), hit.video, timeout_s=timeout_s)


def stills(video: Path, times_s: Sequence[float], height: int) -> tuple[list[Image.Image], list[float]]:
    """The pictures on screen at these times, about `height` pixels high at most, and since when each is shown.

    Times outside of the video stand for its ends. Raises VideoError where it cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)  # of a video cut short, what is there is shown
        with open_video(video) as source:
            shown_s = source.times_s.numpy()
            on_screen = np.searchsorted(shown_s, np.asarray(times_s) + ROUNDING_S, side="right") - 1
            frames = np.maximum(on_screen, 0)
            short_side = min(source.height, source.width, height)
            pictures = source.read(frames.tolist(), short_side).permute(0, 2, 3, 1).numpy()  # (N, H, W, 3)
            images = [_square_pixels(Image.fromarray(picture), source) for picture in pictures]
    return images, shown_s[frames].tolist()


def _square_pixels(image: Image.Image, source: Video) -> Image.Image:
    if source.pixel_aspect == 1:
        return image
    width = max(1, round(image.width * source.pixel_aspect))
    return image.resize((width, image.height), Image.Resampling.BICUBIC)
