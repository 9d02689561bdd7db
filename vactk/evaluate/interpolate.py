"""Merge checkpoints: write the result of a formula, or evaluate a sweep of alphas and write the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vactk.checkpoints.merge import MergePlan, merged_model, plan_merge, save_merged
from vactk.checkpoints.merge_inputs import MergeInput, open_backbone, open_merge_input
from vactk.checkpoints.name_patterns import select_by_pattern
from vactk.data.datasets import find_dataset
from vactk.data.records import VideoSet
from vactk.errors import VactkError, pick
from vactk.evaluate import curve, pictures
from vactk.evaluate.alpha_sweep import EvalSettings, Point, best_point, greedy_soup, sweep
from vactk.evaluate.setup import checkpoint_config, prepare_model
from vactk.models.video_model import VideoModel
from vactk.progress import Reporter
from vactk.weights import arithmetic
from vactk.weights.arithmetic import Coefficients


class MergeFormula(NamedTuple):
    """The weights of the checkpoints in a merge."""

    text: str  # for the user
    coefficients: Coefficients
    alpha: float | None = None
    trials: list[dict[str, Any]] | None = None  # of a greedy soup


class EvalSet:
    """A dataset, or "dataset/split", and the splits to evaluate on. Raises VactkError for unknown names."""

    def __init__(self, key: str, split: str | None = None) -> None:
        self.key = key
        self.name, _, own = key.partition("/")
        found = find_dataset(self.name)
        chosen = own or split
        if chosen:
            pick(dict.fromkeys((found.train_split, *found.eval_splits)), chosen, f"split of {self.name}")
        self.splits = (chosen,) if chosen else found.eval_splits

    def columns(self) -> dict[str, str]:
        """Return the splits by their column's name in a table."""
        if len(self.splits) == 1:
            return {self.key: self.splits[0]}
        return {f"{self.name}/{split}": split for split in self.splits}

    def to_json(self, point: Point) -> dict[str, Any]:
        """Return the accuracy on the last split, as `vactk zeroshot` does, and under "splits" on all of several."""
        accuracies = {
            split: point.evaluations[column].accuracy["similarity"]
            for column, split in self.columns().items()
        }
        return {**accuracies[self.splits[-1]], **({"splits": accuracies} if len(accuracies) > 1 else {})}


@dataclass
class MergeRun:
    """Opened checkpoints that were made compatible, and the notes about them."""

    inputs: Sequence[MergeInput]
    plan: MergePlan
    alpha_of: Mapping[str, float]  # alphas of parts, by name or pattern
    overrides: Mapping[str, Any]  # of a recipe's settings, for evaluation
    reporter: Reporter
    is_writer: bool = True  # one process of a launch writes the files
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Show `text`, and keep it for the result."""
        self.notes.append(text)
        self.reporter.message(text)

    def interpolation(self, alpha: float) -> MergeFormula:
        """Return (1 - alpha) A + alpha B, with the alphas of `alpha_of` for their parts."""
        own = select_by_pattern(self.alpha_of, self.plan.names)
        text = f"(1 - {alpha:g}) A + {alpha:g} B"
        return MergeFormula(text, lambda name: arithmetic.interpolation(own.get(name, alpha)), alpha)

    def weighted_mean(self, weights: Sequence[float]) -> MergeFormula:
        """Return the sum of the checkpoints times `weights`, which sum to 1."""
        return MergeFormula("weighted mean", lambda _: weights)

    def task_vector(self, scale: float) -> MergeFormula:
        """Return A + scale (B - C)."""
        values = arithmetic.task_vector(scale)
        return MergeFormula(f"A + {scale:g} (B - C)", lambda _: values)

    def uniform_soup(self) -> MergeFormula:
        """Return the mean of all checkpoints."""
        values = arithmetic.average(len(self.plan.terms))
        return MergeFormula("uniform mean", lambda _: values)

    def greedy_soup(self, sets: Sequence[EvalSet]) -> MergeFormula:
        """Return the mean of the checkpoints that improve the accuracy on the split of `sets`."""
        if len(sets) != 1:
            raise VactkError("a greedy soup is chosen on one split: give one --dataset, and its --split")
        model, settings, load = self._prepare()
        videos = load(sets[0].name, sets[0].splits[-1])
        members, trials = greedy_soup(model, self.plan, videos, settings)
        values = [1 / len(members) if i in members else 0.0 for i in range(len(self.plan.terms))]
        return MergeFormula(f"greedy soup of {len(members)}", lambda _: values, trials=trials)

    def save(self, target: Path, formula: MergeFormula) -> dict[str, Any]:
        """Write the merged checkpoint and return what it is made of, under the keys that scripts rely on."""
        count = len(self.plan.terms)
        weights = [None] * count if self.alpha_of else formula.coefficients("")
        hashes = {one.label: one.sha256 for one in self.inputs}
        parents = [
            {"path": part.label, "weight": weight, "sha256": hashes.get(part.label) or None}
            for part, weight in zip(self.plan.terms, weights, strict=True)
        ]
        info = {
            "alpha": formula.alpha,
            "formula": formula.text,
            "alpha_of": dict(self.alpha_of),
            "parents": parents,
            "notes": self.notes,
            **({} if formula.trials is None else {"soup": formula.trials}),
        }
        progress = self.reporter.progress(f"writing {target}")
        if self.is_writer:
            save_merged(target, self.plan, formula.coefficients, info, progress)
        return {"output": str(target), **info}

    def sweep(
        self, alphas: Sequence[float], sets: Sequence[EvalSet], stem: Path, target: Path | None
    ) -> dict[str, Any]:
        """Evaluate every alpha, draw the curve to `stem`, and write the best merge to `target`.

        Returns the results under the keys that scripts rely on.
        """
        can_draw = pictures.can_draw()
        if not can_draw:
            self.note("the curve is not drawn: pip install 'vactk[report]'")
        model, settings, load = self._prepare()
        columns = {name: load(one.name, split) for one in sets for name, split in one.columns().items()}
        points = sweep(
            model, self.plan, alphas, lambda alpha: self.interpolation(alpha).coefficients, columns, settings
        )
        best = best_point(points)
        drawn: list[Path] = []
        if can_draw and self.is_writer:
            free = next_free(stem.with_name(stem.name + ".png")).with_suffix("")
            sets_drawn = [_set_curve(points, name) for name in columns]
            labels = self.plan.terms[0].label, self.plan.terms[1].label
            drawn = curve.draw_curve(free, sets_drawn, list(alphas), best.alpha, labels)
        found = [{"alpha": point.alpha, **{one.key: one.to_json(point) for one in sets}} for point in points]
        result = {
            "points": found,
            "best": {**found[points.index(best)], "trade_off": best.trade_off},
            "direction": f"alpha 0 is {self.plan.terms[0].label}, 1 is {self.plan.terms[1].label}",
            "curve": [str(path) for path in drawn],
            "notes": self.notes,
        }
        if target is not None:
            result["output"] = self.save(target, self.interpolation(best.alpha))["output"]
        return result

    def _prepare(self) -> tuple[VideoModel, EvalSettings, Callable[[str, str], VideoSet]]:
        """Return the model to merge into, how it is evaluated, and a function that loads a split."""
        model = merged_model(self.plan)
        config = checkpoint_config(model, self.overrides)
        accelerator = prepare_model(model, config)
        progress = self.reporter.progress
        settings = EvalSettings(config, accelerator, progress)
        given = self.overrides.get("data_root") or model.info.get("recipe", {}).get("data_root")
        root = Path(given) if given else None

        def load(name: str, split: str) -> VideoSet:
            return find_dataset(name).load(split, root=root, progress=progress(f"{name}: videos"))

        return model, settings, load


def open_merge(
    files: Sequence[Path],
    overrides: Mapping[str, Any],
    reporter: Reporter,
    *,
    with_original: bool = False,
    heads: bool = True,
    alpha_of: Mapping[str, float] | None = None,
    is_writer: bool = True,
) -> MergeRun:
    """Open checkpoints and make them compatible. Raises VactkError for those that cannot be merged.

    `with_original` puts the CLIP that they started from before them; `heads` keeps their class and word heads.
    """
    stated = overrides.get("model", {})
    with ThreadPoolExecutor() as pool:  # hashing takes most of the time and releases the GIL
        inputs = list(pool.map(lambda file: open_merge_input(file, stated), files))
    backbone = stated.get("backbone", {})
    if with_original and "name" in backbone and not inputs[0].is_foreign:
        inputs.insert(0, open_backbone(backbone))
        with_original = False
    plan = plan_merge(inputs, with_original=with_original, heads=heads)
    run = MergeRun(inputs, plan, alpha_of or {}, overrides, reporter, is_writer)
    for note in plan.notes:
        run.note(note)
    types = {
        str(entry.dtype).removeprefix("torch.")
        for part in plan.terms
        for entry in part.source.entries.values()
        if entry.dtype.is_floating_point
    }
    if len(types) > 1:
        run.note(f"the checkpoints' types differ ({', '.join(sorted(types))}): the result has the wider one")
    return run


def next_free(path: Path) -> Path:
    """Return `path`, with a number before its suffix if it exists."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _set_curve(points: Sequence[Point], column: str) -> curve.SetCurve:
    found = [point.evaluations[column] for point in points]
    top1 = [one.accuracy["similarity"]["top1"] for one in found]
    return curve.SetCurve(column, top1, found[0].splits[0].num_videos)
