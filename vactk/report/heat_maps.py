"""Heat maps in a run folder: pictures that an evaluation draws, and a report shows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from vactk.errors import VactkError
from vactk.files.atomic import atomic_path, write_json
from vactk.files.text import read_json
from vactk.report.charts import data_address
from vactk.report.predictions import PredictedVideo, VideoKey

FOLDER, INDEX = "heat_maps", "index.json"


class HeatMap(NamedTuple):
    """Where in a video an answer comes from: its frames above, and the same frames with the map below."""

    row: PredictedVideo
    picture: Image.Image


def write_heat_maps(folder: Path, method: str, maps: Sequence[HeatMap]) -> None:
    """Write the pictures below `folder` as JPEG, and a list of them with the name of the method."""
    entries: list[dict[str, Any]] = []
    for number, (row, picture) in enumerate(maps, 1):
        name = f"{number}.jpg"
        with atomic_path(folder / FOLDER / name) as temporary:
            picture.save(temporary, format="JPEG", quality=80)
        key = dict(zip(("split", "video", "start_s", "end_s"), row.key, strict=True))
        entries.append({**key, "answer": row.answer, "picture": name})
    write_json(folder / FOLDER / INDEX, {"method": method, "maps": entries})


def read_heat_maps(folder: Path) -> tuple[str, dict[VideoKey, str]]:
    """Return the name of the method, and the pictures of a run folder as addresses; none where there are none.

    Raises VactkError where they are damaged.
    """
    path = folder / FOLDER / INDEX
    if not path.is_file():
        return "", {}
    try:
        index = read_json(path)
        found = {
            (one["split"], one["video"], one["start_s"], one["end_s"]): _address(
                folder / FOLDER, one["picture"]
            )
            for one in index["maps"]
        }
        return str(index["method"]), found
    except (OSError, KeyError, TypeError) as error:
        raise VactkError(f"'{path.parent}' is damaged ({error}): remove it, and report again") from error


def _address(folder: Path, name: str) -> str:
    content = (folder / Path(name).name).read_bytes()  # of this folder, whatever the list says
    with Image.open(io.BytesIO(content)) as picture:
        picture.verify()
    return data_address(content, "image/jpeg")
