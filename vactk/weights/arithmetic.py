"""Weighted sums of checkpoints, tensor by tensor: interpolation, averages, task vectors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from vactk.errors import VactkError
from vactk.weights.streaming import TensorEntry, TensorReader, row_ranges

Coefficients = Callable[[str], Sequence[float]]  # a tensor's name -> a weight for each term, summing to 1


@dataclass(frozen=True)
class MergeTerm:
    """A checkpoint in a weighted sum."""

    label: str  # its path, for errors
    source: TensorReader


def average(count: int) -> list[float]:
    """Equal weights."""
    return [1 / count] * count


def interpolation(alpha: float) -> list[float]:
    """(1 - alpha) A + alpha B."""
    return [1 - alpha, alpha]


def task_vector(scale: float) -> list[float]:
    """A + scale (B - C) (Ilharco et al., ICLR 2023)."""
    return [1.0, scale, -scale]


def check_fits(term: MergeTerm, shapes: Mapping[str, tuple[int, ...]], known: Set[str], other: str) -> None:
    """Raises VactkError, with the names that differ, unless `term` has all of `shapes`, and no more than `known`.

    `other` is the checkpoint, or the model, that they come from.
    """
    own = term.source.entries
    differing = [
        f"{name} {own[name].shape} instead of {shapes[name]}"
        for name in sorted(own.keys() & shapes.keys())
        if own[name].shape != shapes[name]
    ]
    problems = [
        f"{kind}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for kind, names in (
            (f"only in {other}", sorted(shapes.keys() - own.keys())),
            (f"only in '{term.label}'", sorted(own.keys() - known)),
            ("other shape", differing),
        )
        if names
    ]
    if problems:
        raise VactkError(
            f"the architectures of {other} and '{term.label}' do not match; {'; '.join(problems)}"
        )


def mixed_entries(
    terms: Sequence[MergeTerm], names: Sequence[str], coefficients: Coefficients
) -> dict[str, TensorEntry]:
    """Return shapes and types of the mixed tensors: of different types the wider one."""
    entries = {}
    for name in names:
        used = [term.source.entries[name] for term, _ in _used(terms, name, coefficients)]
        entries[name] = TensorEntry(_widest(entry.dtype for entry in used), used[0].shape)
    return entries


def mixed_rows(terms: Sequence[MergeTerm], name: str, coefficients: Coefficients) -> Iterator[Tensor]:
    """The mixed tensor `name`, some rows at a time.

    Where all terms agree the result is theirs to the last bit. Raises VactkError for values that are not
    finite, and for whole numbers that differ.
    """
    used = _used(terms, name, coefficients)
    first = used[0][0].source.entries[name]
    for start, stop in row_ranges(first):
        rows = [term.source.read(name, start, stop) for term, _ in used]
        yield _sum(name, rows, [weight for _, weight in used], [term.label for term, _ in used])


def mixed_tensor(terms: Sequence[MergeTerm], name: str, coefficients: Coefficients) -> Tensor:
    """The mixed tensor `name`, whole. Raises VactkError as `mixed_rows`."""
    chunks = list(mixed_rows(terms, name, coefficients))
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks)


def _used(terms: Sequence[MergeTerm], name: str, coefficients: Coefficients) -> list[tuple[MergeTerm, float]]:
    return [
        (term, weight) for term, weight in zip(terms, coefficients(name), strict=True) if weight != 0
    ] or [(terms[0], 1.0)]


def _widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    return functools.reduce(torch.promote_types, dtypes)


def _sum(name: str, rows: list[Tensor], weights: list[float], labels: list[str]) -> Tensor:
    """first + sum of weight_i (row_i - first): the weighted sum, as the weights sum to 1."""
    if not rows[0].is_floating_point():
        if any(not torch.equal(rows[0], other) for other in rows[1:]):
            raise VactkError(f"'{name}' holds whole numbers that differ between '{labels[0]}' and the others")
        return rows[0]
    widest = _widest(row.dtype for row in rows)
    dtype = torch.promote_types(widest, torch.float32)
    first = total = rows[0].to(dtype)
    for row, weight in zip(rows[1:], weights[1:], strict=True):
        total = (row.to(dtype) - first).mul_(weight).add_(total)
    total = total.to(widest)
    if not math.isfinite(total.sum(dtype=torch.float64)):
        guilty = next(
            (label for row, label in zip(rows, labels, strict=True) if not row.isfinite().all()), None
        )
        where = f"'{guilty}' holds" if guilty else "the result would hold"
        raise VactkError(f"{where} NaN or infinite values in '{name}'; nothing was written")
    return total


def select(coefficients: Sequence[float], present: Mapping[int, bool]) -> list[float]:
    """Return the weights of the terms that are present, scaled to sum to 1; equal ones where all of them are 0."""
    kept = [weight if present[i] else 0.0 for i, weight in enumerate(coefficients)]
    total = sum(kept)
    if total == 0:
        count = sum(present.values())
        return [1 / count if present[i] else 0.0 for i in range(len(kept))]
    return [weight / total for weight in kept]
