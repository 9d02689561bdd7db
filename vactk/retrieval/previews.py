"""Stills and clips of hits, out of the files that were indexed and no others."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from vactk.errors import VactkError
from vactk.retrieval.hits import Hit
from vactk.retrieval.index.file_identity import open_same
from vactk.retrieval.results.clips import cut
from vactk.video.stills import stills

T = TypeVar("T")
STILL_HEIGHT = 270  # pixels
LONGEST_CLIP_S = 60.0
CLIP_SIDE = 640  # pixels
DESCRIPTORS = Path("/proc/self/fd")  # where a descriptor can be opened again, whatever its path now leads to


def make_still(hit: Hit, at_s: float) -> bytes:
    """The picture that a hit's video shows at a time, as JPEG.

    Raises VactkError where the video cannot be read, StaleError where it is no longer the one that was indexed.
    """
    (picture,), _ = _same_video(hit, partial(stills, times_s=[at_s], height=STILL_HEIGHT))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def make_clip(hit: Hit, output: Path) -> None:
    """Write a hit as a clip that every browser plays. Raises as `make_still` does."""
    end_s = min(hit.end_s, hit.start_s + LONGEST_CLIP_S)
    _same_video(hit, partial(cut, start_s=hit.start_s, end_s=end_s, output=output, max_side=CLIP_SIDE))


def _same_video(hit: Hit, read: Callable[[Path], T]) -> T:
    with open_same(hit.video, hit.known_file) as file:
        video = DESCRIPTORS / str(file.fileno()) if DESCRIPTORS.exists() else hit.video
        try:
            return read(video)
        except VactkError as error:
            raise VactkError(str(error).replace(os.fspath(video), os.fspath(hit.video))) from error
