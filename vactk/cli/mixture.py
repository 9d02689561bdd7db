"""The work of `vactk interpolate`: checkpoints made alike, mixed, measured, and written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vactk.cli.display import Display, is_main_process
from vactk.cli.mixing import MergeOptions, next_free
from vactk.errors import VactkError, pick

if TYPE_CHECKING:
    from vactk.checkpoints.merge import MergePlan
    from vactk.checkpoints.merge_inputs import MergeInput
    from vactk.data.records import VideoSet
    from vactk.evaluate.alpha_sweep import EvalSettings, Point
    from vactk.models.video_model import VideoModel
    from vactk.weights.arithmetic import Coefficients


class MergeRun:
    """A mixture under way: its sides, and what was said about them."""

    def __init__(
        self, mix: MergeOptions, parts: dict[str, float], overrides: dict[str, Any], shown: Display
    ) -> None:
        self.mix = mix
        self.parts = parts
        self.overrides = overrides
        self.shown = shown
        self.notes: list[str] = []
        self.sides: list[MergeInput] = []
        self.mixture: MergePlan

    def open(self, files: list[Path], *, with_original: bool, heads: bool) -> None:
        """Read what the files are, and make them alike."""
        from vactk.checkpoints.merge import plan_merge
        from vactk.checkpoints.merge_inputs import backbone_side, open_merge_input

        stated = self.overrides.get("model", {})
        with ThreadPoolExecutor() as pool:  # hashing takes most of the time, and threads share it
            self.sides = list(pool.map(lambda file: open_merge_input(file, stated), files))
        backbone = stated.get("backbone", {})
        if with_original and "name" in backbone and not self.sides[0].is_foreign:
            self.sides.insert(0, backbone_side(backbone))
            with_original = False
        self.mixture = plan_merge(self.sides, with_original=with_original, heads=heads)
        self.notes += self.mixture.notes
        self._note_oddities()
        for note in self.notes:
            self.shown.message(note)

    def _note_oddities(self) -> None:
        alphas = [self.mix.alpha, *(self.mix.alphas or ()), *self.parts.values()]
        outside = [alpha for alpha in alphas if alpha is not None and not 0 <= alpha <= 1]
        if outside:
            self.notes.append(f"warning: alpha {outside[0]:g} is outside 0 to 1, this extrapolates")
        hashes = [side.sha256 for side in self.sides]
        if len(set(hashes)) < len(hashes) and self.mix.task_vector is None:
            self.notes.append("warning: two of the checkpoints have the same content")
        kinds = {
            str(entry.dtype).removeprefix("torch.")
            for part in self.mixture.parts
            for entry in part.source.entries.values()
            if entry.dtype.is_floating_point
        }
        if len(kinds) > 1:
            self.notes.append(
                f"the checkpoints' types differ ({', '.join(sorted(kinds))}): the result has the wider one"
            )

    def coefficients(self, alpha: float) -> Coefficients:
        """(1 - alpha) A + alpha B, with the parts that have an alpha of their own."""
        from vactk.checkpoints.name_patterns import select_by_pattern
        from vactk.weights.arithmetic import interpolation

        own = select_by_pattern(self.parts, self.mixture.names)
        return lambda name: interpolation(own.get(name, alpha))

    def save(self, target: Path, sets: Sequence[MeasuredSet]) -> dict[str, Any]:
        """Write the mixture that was asked for."""
        from vactk.weights.arithmetic import average, task_vector

        mix, tried = self.mix, None
        if mix.alpha is not None:
            chosen, formula = self.coefficients(mix.alpha), f"(1 - {mix.alpha:g}) A + {mix.alpha:g} B"
        else:
            if mix.weights is not None:
                values, formula = list(mix.weights), "weighted mean"
            elif mix.task_vector is not None:
                values, formula = task_vector(mix.task_vector), f"A + {mix.task_vector:g} (B - C)"
            elif mix.soup == "uniform":
                values, formula = average(len(self.mixture.parts)), "uniform mean"
            else:
                values, tried = self._greedy(sets)
                formula = f"greedy soup of {sum(value > 0 for value in values)}"
            chosen = lambda _: values  # noqa: E731 - one line for a constant
        return self._write(target, chosen, mix.alpha, formula, {} if tried is None else {"soup": tried})

    def _write(
        self, target: Path, chosen: Coefficients, alpha: float | None, formula: str, extra: dict[str, Any]
    ) -> dict[str, Any]:
        from vactk.checkpoints.merge import save_merged

        shares = chosen("") if not self.parts else [None] * len(self.mixture.parts)
        hashes = {side.label: side.sha256 for side in self.sides}
        parents = [
            {"path": part.label, "weight": share, "sha256": hashes.get(part.label) or None}
            for part, share in zip(self.mixture.parts, shares, strict=True)
        ]
        info = {"alpha": alpha, "formula": formula, "alpha_of": self.parts, "parents": parents}
        progress = self.shown.progress(f"writing {target}")
        if is_main_process():
            save_merged(target, self.mixture, chosen, {**info, "notes": self.notes, **extra}, progress)
        return {"output": str(target), **info, "notes": self.notes, **extra}

    def _greedy(self, sets: Sequence[MeasuredSet]) -> tuple[list[float], list[dict[str, Any]]]:
        from vactk.evaluate.alpha_sweep import greedy_soup

        if len(sets) != 1:
            raise VactkError("a greedy soup is made on one split: give one --dataset, and its --split")
        model, protocol, load = self._measuring()
        members, tried = greedy_soup(model, self.mixture, load(sets[0].name, sets[0].splits[-1]), protocol)
        return [1 / len(members) if i in members else 0.0 for i in range(len(self.mixture.parts))], tried

    def sweep(self, sets: Sequence[MeasuredSet], target: Path | None, stem: Path) -> dict[str, Any]:
        """Measure every alpha, draw the curve, and write the best mixture if there is a place for it."""
        from vactk.evaluate.alpha_sweep import best_point, sweep
        from vactk.evaluate.curve import can_draw, draw_curve

        if not can_draw():
            self._say("the curve is not drawn: pip install 'vactk[plot]'")
        model, protocol, load = self._measuring()
        assert self.mix.alphas is not None
        columns = {column: load(*place) for one in sets for column, place in one.columns().items()}
        points = sweep(model, self.mixture, self.mix.alphas, self.coefficients, columns, protocol)
        best = best_point(points)
        drawn: list[Path] = []
        if can_draw() and is_main_process():
            top1 = [[_top1(point, name) for point in points] for name in columns]
            free = next_free(stem.with_name(stem.name + ".png")).with_suffix("")
            drawn = draw_curve(free, list(columns), self.mix.alphas, top1, best.alpha)
        result = {
            "points": [_as_json(point, sets) for point in points],
            "best": {**_as_json(best, sets), "trade_off": best.trade_off},
            "direction": f"alpha 0 is {self.mixture.parts[0].label}, 1 is {self.mixture.parts[1].label}",
            "curve": [str(path) for path in drawn],
            "notes": self.notes,
        }
        if target is not None:
            chosen, formula = self.coefficients(best.alpha), f"(1 - {best.alpha:g}) A + {best.alpha:g} B"
            result["output"] = self._write(target, chosen, best.alpha, formula, {})["output"]
        return result

    def _say(self, note: str) -> None:
        self.notes.append(note)
        self.shown.message(note)

    def _measuring(self) -> tuple[VideoModel, EvalSettings, Callable[[str, str], VideoSet]]:
        from vactk.checkpoints.merge import merged_model
        from vactk.data.datasets import find_dataset
        from vactk.evaluate.alpha_sweep import EvalSettings
        from vactk.evaluate.setup import checkpoint_config, prepare_model

        model = merged_model(self.mixture)
        config = checkpoint_config(model, self.overrides)
        accelerator = prepare_model(model, config)
        given = self.overrides.get("data_root") or model.info.get("recipe", {}).get("data_root")
        root = Path(given) if given else None
        protocol = EvalSettings(
            config.data, config.prompts, config.batch_size, accelerator, self.shown.progress
        )

        def load(name: str, split: str) -> VideoSet:
            return find_dataset(name).load(split, root=root, progress=self.shown.progress(f"{name}: videos"))

        return model, protocol, load


class MeasuredSet:
    """A dataset as the user named it, with the splits that are measured."""

    def __init__(self, key: str, split: str | None) -> None:
        from vactk.data.datasets import find_dataset

        self.key = key
        self.name, _, own = key.partition("/")
        found = find_dataset(self.name)
        known = dict.fromkeys((found.train_split, *found.eval_splits))
        wanted = own or split
        if wanted:
            pick(known, wanted, f"split of {self.name}")
        self.splits = (wanted,) if wanted else found.eval_splits

    def columns(self) -> dict[str, tuple[str, str]]:
        """What a table calls each split -> its dataset and split."""
        if len(self.splits) == 1:
            return {self.key: (self.name, self.splits[0])}
        return {f"{self.name}/{split}": (self.name, split) for split in self.splits}


def find_sets(names: list[str], split: str | None) -> list[MeasuredSet]:
    return [MeasuredSet(name, split) for name in dict.fromkeys(names)]


def _top1(point: Point, column: str) -> float:
    return point.evaluations[column].accuracy["similarity"]["top1"]


def _as_json(point: Point, sets: Sequence[MeasuredSet]) -> dict[str, Any]:
    """A dataset's accuracy is that on its last split, as in `vactk zeroshot`; `splits` has all of them."""
    values: dict[str, Any] = {"alpha": point.alpha}
    for one in sets:
        found = {split: point.evaluations[column].accuracy["similarity"]
                 for column, (_, split) in one.columns().items()}  # fmt: skip
        values[one.key] = {**found[one.splits[-1]], **({"splits": found} if len(found) > 1 else {})}
    return values
