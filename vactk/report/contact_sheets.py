"""Videos of a report as small pictures of the frames that the model read."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vactk.data.isolated_read import IsolatedReader
from vactk.errors import VactkError
from vactk.report.charts import data_address
from vactk.report.predictions import PredictedVideo
from vactk.video.stills import stills

FRAMES = 4  # shown of a video
HEIGHT = 108  # pixels
TIMEOUT_S = 20.0  # for a video


class Shown(NamedTuple):
    """A video of a contact sheet."""

    row: PredictedVideo
    name: str  # its path below the folder that all have in common
    pictures: list[str]  # addresses
    problem: str  # why there are none


def contact_sheet(rows: Sequence[PredictedVideo], common: str) -> list[Shown]:
    """Return the videos with frames that the model read; a video that cannot be read says why."""
    with IsolatedReader() as reader:
        return [_shown(reader, row, common) for row in rows]


def common_folder(rows: Sequence[PredictedVideo]) -> str:
    """Return the deepest folder that has all videos; empty where there is none."""
    try:
        return os.path.commonpath({Path(row.video).parent for row in rows})
    except ValueError:  # of several drives
        return ""


def _shown(reader: IsolatedReader, row: PredictedVideo, common: str) -> Shown:
    name = os.path.relpath(row.video, common) if common else row.video
    if row.start_s is not None and row.end_s is not None:
        name += f", {row.start_s:g} to {row.end_s:g} s"
    path = Path(row.video)
    if not path.is_file():
        return Shown(row, name, [], "the video is no longer there")
    times_s = sorted(set(row.frames_s))
    chosen = [
        times_s[i] for i in np.linspace(0, len(times_s) - 1, min(FRAMES, len(times_s))).round().astype(int)
    ]
    try:
        images, _ = reader.call(path, stills, path, chosen, HEIGHT, timeout_s=TIMEOUT_S)
    except VactkError as error:
        return Shown(row, name, [], str(error).partition("': ")[2] or str(error))
    pictures = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=72)
        pictures.append(data_address(buffer.getvalue(), "image/jpeg"))
    return Shown(row, name, pictures, "")
