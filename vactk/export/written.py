"""What is known of an exported file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vactk.weights.stream import sha256


@dataclass(frozen=True, kw_only=True)
class Written:
    """A file that was written and compared with the model."""

    path: str
    part: str
    format: str
    precision: str
    max_abs_diff: float
    differences: Mapping[str, float]  # the largest on "random" and on "real" inputs
    tolerance: float  # relative to the largest value of an output, where that is above 1
    frames: int | str | None = None  # what it takes: a number, "any", or None where there are none
    opset: int | None = None
    bytes: int = 0
    sha256: str = ""
    more: tuple[str, ...] = field(default=())  # other files that belong to it


def sizes_and_hashes(files: Sequence[Written], folder: Path) -> tuple[Written, ...]:
    """The same with their sizes and hashes; ONNX's own companion files count with them."""
    found = []
    for file in files:
        path = folder / file.path
        more = sorted(item for item in folder.glob(f"{path.name}.*"))
        size = sum(item.stat().st_size for item in (path, *more))
        names = (*file.more, *(item.name for item in more))
        found.append(replace(file, bytes=size, sha256=sha256(path), more=names))
    return tuple(found)
