"""metrics.jsonl as curves: the values of each training step, and those of the evaluations in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vactk.files.text import read_json_lines

FILE = "metrics.jsonl"
MOST_POINTS = 300  # of a curve; of a longer one, means over equal stretches of it
NOT_LOSSES = (
    "step",
    "epoch",
    "alpha",
    "grad_norm",
    "videos_per_s",
    "data_wait",
    "skipped",
    "num_masked_words",
    "word_accuracy",
)
Curve = list[tuple[float, float]]  # (step, value)


@dataclass(frozen=True)
class Curves:
    """The course of a run, by the names that metrics.jsonl has."""

    losses: dict[str, Curve]
    training_accuracy: dict[str, Curve]  # in %
    lr: Curve
    evaluations: dict[str, Curve]  # "split, top-1": in %

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def read_curves(folder: Path) -> Curves | None:
    """Read metrics.jsonl of a run folder; None where there is none. Raises VactkError where it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    lines = [line for _, line in read_json_lines(path)]
    values: dict[str, Curve] = {}
    evaluations: dict[str, Curve] = {}
    for line in lines:
        step = float(line.get("step", 0))
        for split, found in (line.get("evaluation") or {}).items():
            for name, value in _scores(found).items():
                evaluations.setdefault(f"{split}, {name}", []).append((step, value))
        for name, value in line.items():
            if isinstance(value, int | float) and name not in NOT_LOSSES:
                values.setdefault(name, []).append((step, float(value)))
    lr = values.pop("lr", [])
    accuracy = {name: values.pop(name) for name in list(values) if name.endswith(("accuracy", "top1"))}
    return Curves(
        losses={name: thinned(curve) for name, curve in values.items()},
        training_accuracy={name: thinned(curve) for name, curve in accuracy.items()},
        lr=thinned(lr),
        evaluations=evaluations,
    )


def thinned(curve: Curve) -> Curve:
    """Return at most MOST_POINTS points: means over stretches of the curve that are equally long, or nearly."""
    if len(curve) <= MOST_POINTS:
        return curve
    return [tuple(part.mean(axis=0).tolist()) for part in np.array_split(np.asarray(curve), MOST_POINTS)]


def _scores(found: Mapping[str, Any]) -> dict[str, float]:
    """Return what an evaluation found, in %: top-1 of each classifier, or R@1 of captions."""
    if "t2v" in found:
        return {"text-to-video R@1": found["t2v"]["R@1"]}
    heads = {by: found[by] for by in ("class_head", "ensemble") if by in found}
    return {"top-1": found["top1"], **{f"top-1, {by}": values["top1"] for by, values in heads.items()}}
