"""Whether an exported file gives what its model gives: the largest difference, and how large it may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vactk.errors import VactkError

# of each precision, relative to an output's largest value where that is above 1
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "int8": 0.25}

Run = Callable[[Tensor], Sequence[Tensor]]  # an input -> every output


@dataclass(frozen=True)
class Case:
    """An input to compare on."""

    kind: str  # "random" or "real"
    input: Tensor


@dataclass(frozen=True)
class Difference:
    """How far a file's outputs are from the model's."""

    absolute: dict[str, float]  # the largest, of each kind of case
    relative: float  # the largest, as tolerances count

    @property
    def largest(self) -> float:
        return max(self.absolute.values())


@torch.no_grad()
def measure_difference(reference: Run, run: Run, cases: Sequence[Case], what: str) -> Difference:
    """The largest difference between the model, by `reference`, and the file that `run` runs, over all cases.

    Raises VactkError when the file, called `what`, gives another shape, no number, or cannot be run.
    """
    absolute: dict[str, float] = {}
    relative = 0.0
    for case in cases:
        expected = reference(case.input)
        shape = "x".join(map(str, case.input.shape))
        try:
            found = run(case.input)
        except Exception as error:  # whatever onnxruntime or torch raise for a graph that is wrong
            raise VactkError(f"{what} cannot be run on an input of {shape}: {_first_line(error)}") from error
        for ours, theirs in zip(expected, found, strict=True):
            if ours.shape != theirs.shape:
                raise VactkError(
                    f"{what} gives {tuple(theirs.shape)} for an input of {shape}, the model {tuple(ours.shape)}"
                )
            gap = float((ours.float() - theirs.float()).abs().max())
            if gap != gap:
                raise VactkError(f"{what} gives values that are no numbers for an input of {shape}")
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
        raise VactkError(f"{what} cannot be opened: {_first_line(error)}") from error


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


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
