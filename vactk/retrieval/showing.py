"""Stills and clips of hits, made in processes that may hang or die."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from vactk.errors import VactkError
from vactk.retrieval.cut import cut
from vactk.retrieval.files import StaleError, open_same
from vactk.retrieval.hits import Hit
from vactk.retrieval.stills import stills

STILL_HEIGHT = 270  # pixels
LONGEST_CLIP_S = 60.0
CLIP_SIDE = 640  # pixels
DESCRIPTORS = Path("/proc/self/fd")  # where a descriptor can be opened again, whatever its path now leads to


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be made of a hit: the picture at a time or, with `output`, a clip."""

    hit: Hit
    at_s: float = 0.0
    output: Path | None = None


class Shown(NamedTuple):
    """A still, or what kept it or the clip from being made."""

    picture: bytes = b""  # JPEG
    error: str = ""
    kind: Literal["", "stale", "unreadable", "lost"] = ""  # of error; lost: with the process that met it


class Showing:
    """Makes what is wished for, out of the file that was indexed and no other."""

    def __getitem__(self, wish: Wish) -> Shown:
        try:
            return Shown(_make(wish))
        except VactkError as error:
            return Shown(error=str(error), kind="stale" if isinstance(error, StaleError) else "unreadable")

    def failed(self, wish: Wish, reason: str) -> Shown:
        """What stands for a wish on which a process was lost."""
        return Shown(error=f"cannot read video '{wish.hit.video}': {reason}", kind="lost")


def _make(wish: Wish) -> bytes:
    hit = wish.hit
    with open_same(hit.video, hit.known_file) as file:
        video = DESCRIPTORS / str(file.fileno()) if DESCRIPTORS.exists() else hit.video
        try:
            if wish.output is None:
                return _still(video, wish.at_s)
            until_s = min(hit.end_s, hit.start_s + LONGEST_CLIP_S)
            cut(video, hit.start_s, until_s, wish.output, max_side=CLIP_SIDE)
            return b""
        except VactkError as error:
            raise VactkError(str(error).replace(os.fspath(video), os.fspath(hit.video))) from error


def _still(video: Path, at_s: float) -> bytes:
    (picture,), _ = stills(video, [at_s], STILL_HEIGHT)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
