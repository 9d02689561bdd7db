"""Read frames of hits as images, as a player displays them."""

from __future__ import annotations

from functools import partial

from PIL import Image

from vactk.data.isolated_read import TIMEOUT_S, read_isolated
from vactk.retrieval.hits import Hit
from vactk.video.stills import stills


def hit_stills(
    hit: Hit, count: int, height: int, *, timeout_s: float = TIMEOUT_S
) -> tuple[list[Image.Image], list[float]]:
    """Return the frames in the middle of `count` equal segments of a hit, and their times in seconds.

    Raises VideoError if the video cannot be read, or not in time.
    """
    segment_s = (hit.end_s - hit.start_s) / count
    times_s = [hit.start_s + (i + 0.5) * segment_s for i in range(count)]
    return read_isolated(partial(stills, times_s=times_s, height=height), hit.video, timeout_s=timeout_s)
