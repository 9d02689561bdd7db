"""Compare an exported file with its model: the largest difference, and the tolerance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vactk.errors import VactkError, first_line
from vactk.files.hashing import sha256

# of each precision, relative to an output's largest value where that is above 1
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "int8": 0.25}

EXACT = 1e-5  # distance of a cosine from 1 that rounding may cause

Run = Callable[[Tensor], Sequence[Tensor]]  # an input -> every output
Encode = Callable[[Tensor], Tensor]  # videos -> embeddings (B, E)


@dataclass(frozen=True)
class Case:
    """An input to compare on."""

    kind: str  # "random" or "real"
    input: Tensor


@dataclass(frozen=True)
class Difference:
    """The distance of a file's outputs from the model's."""

    absolute: dict[str, float]  # the largest, of each kind of case
    relative: float  # the largest, as tolerances count

    @property
    def largest(self) -> float:
        return max(self.absolute.values())


@torch.no_grad()
def max_difference(reference: Run, run: Run, cases: Sequence[Case], what: str) -> Difference:
    """The largest difference between the model, by `reference`, and the file that `run` runs, over all cases.

    Raises VactkError when the file, called `what`, gives another shape or NaN, or cannot be run.
    """
    absolute: dict[str, float] = {}
    relative = 0.0
    for case in cases:
        expected = reference(case.input)
        shape = "x".join(map(str, case.input.shape))
        try:
            found = run(case.input)
        except Exception as error:  # whatever onnxruntime or torch raise for a graph that is wrong
            raise VactkError(f"{what} cannot be run on an input of {shape}: {first_line(error)}") from error
        for ours, theirs in zip(expected, found, strict=True):
            if ours.shape != theirs.shape:
                raise VactkError(
                    f"{what} gives {tuple(theirs.shape)} for an input of {shape}, the model {tuple(ours.shape)}"
                )
            gap = float((ours.float() - theirs.float()).abs().max())
            if gap != gap:
                raise VactkError(f"{what} gives NaN for an input of {shape}")
            absolute[case.kind] = max(absolute.get(case.kind, 0.0), gap)
            relative = max(relative, gap / max(1.0, float(ours.abs().max())))
    return Difference(absolute, relative)


def open_file(opener: Callable[[Path], Run], path: Path, what: str) -> Run:
    """A file as a function. Raises VactkError when it cannot be opened."""
    try:
        return opener(path)
    except VactkError:
        raise
    except Exception as error:  # as above
        raise VactkError(f"{what} cannot be opened: {first_line(error)}") from error


def refuse_wrong(difference: Difference, tolerance: float, what: str) -> None:
    """Raises VactkError when a file differs from its model by more than `tolerance`."""
    if not difference.relative <= tolerance:
        raise VactkError(
            f"{what} differs from the model by {difference.relative:.2g}, more than {tolerance:.2g}: "
            "nothing was written; say what is acceptable with --tolerance, or choose another --format or "
            "--precision"
        )


def as_outputs(result: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One or several results of a module as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Cosine similarities of videos' embeddings to the video model's."""

    on: str  # the kind of case: "real" where there are any
    num_videos: int
    mean: float
    lowest: float

    @property
    def is_exact(self) -> bool:
        """Whether the embeddings are the video model's, up to rounding."""
        return self.lowest > 1 - EXACT

    def __str__(self) -> str:
        return (
            f"a cosine of {self.mean:.4f} on average, {self.lowest:.4f} at least, to the video model's embeddings "
            f"of {self.num_videos} {self.on} view{'s' * (self.num_videos != 1)}"
        )


@torch.no_grad()
def agreement(expected: Encode, found: Encode, cases: Sequence[Case]) -> Agreement:
    """Compare two functions from videos to embeddings (B, E), on real videos where there are any."""
    on = "real" if any(case.kind == "real" for case in cases) else "random"
    own = [case.input for case in cases if case.kind == on]
    cosines = torch.cat([F.cosine_similarity(expected(views), found(views)) for views in own])
    return Agreement(on=on, num_videos=len(cosines), mean=float(cosines.mean()), lowest=float(cosines.min()))


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
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
    frames_apart: Agreement | None = None  # of a plain CLIP, which other programs give one frame at a time
    bytes: int = 0
    sha256: str = ""
    more: tuple[str, ...] = field(default=())  # other files that belong to it


def sizes_and_hashes(files: Sequence[ExportedFile], folder: Path) -> tuple[ExportedFile, ...]:
    """The same with their sizes and hashes; ONNX's own companion files count with them."""
    found = []
    for file in files:
        path = folder / file.path
        more = sorted(item for item in folder.glob(f"{path.name}.*"))
        size = sum(item.stat().st_size for item in (path, *more))
        names = (*file.more, *(item.name for item in more))
        found.append(replace(file, bytes=size, sha256=sha256(path), more=names))
    return tuple(found)
