"""Open-VCLIP's claims on the embedded benchmark: what fine-tuning forgets, and what brings it back.

    python examples/openvclip.py --seeds 3 --output runs/openvclip

Fine-tunes CLIP plainly, with interpolated weight optimisation (IWO) and with averaging, and TED-Adapters with
both; mixes each with the original CLIP in steps of alpha; prints the accuracies on seen and unseen classes and
the curves, and says which claims hold. Runs that are already in the output folder are kept.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from phenomena import spread

from vactk.cli.display import display, print_table
from vactk.config import build, merge, parse_overrides
from vactk.train.recipe import Recipe, read_recipe
from vactk.train.run import LAST, train

RECIPE = "openvclip-shapes"
PLAIN = ["interpolated.weight=0", "average.every_epochs=0"]
RUNS = {
    "plain": PLAIN,
    "IWO": [],
    "TED-Adapters, IWO": ["model.temporal=ted_adapter"],
}
CURVES = {  # row of the table -> run, file of it
    "plain fine-tuning": ("plain", "model.safetensors"),
    "IWO": ("IWO", LAST),
    "IWO + averaging": ("IWO", "model.safetensors"),
    "TED-Adapters, IWO + averaging": ("TED-Adapters, IWO", "model.safetensors"),
}
TEST_TIME = 0.5  # of the way from the original CLIP to the fine-tuned weights
Curve = list[dict[str, float]]  # alpha, seen, unseen


def main(
    output: Annotated[Path, typer.Option(help="The folder of the runs.")] = Path("runs/openvclip"),
    seeds: Annotated[int, typer.Option(help="Seeds per variant.")] = 3,
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE")] = None,
) -> None:
    """Train, mix, measure, and say what holds."""
    curves: dict[str, list[Curve]] = {}
    for seed in range(seeds):
        folders = {name: run(name, changes, seed, output, settings or []) for name, changes in RUNS.items()}
        for row, (name, file) in CURVES.items():
            curves.setdefault(row, []).append(sweep(folders[name] / file))
    rows = [["frozen CLIP", *(spread([c[0][key] for c in curves["IWO"]]) for key in ("seen", "unseen"))]]
    for row, found in curves.items():
        for title, alpha in ((row, 1.0), (f"{row} + interpolation", TEST_TIME)):
            rows.append([title, *(spread(at(found, alpha, key)) for key in ("seen", "unseen"))])
    print_table(
        f"shapes, top-1 in % (mean +- standard deviation of {seeds} seeds)", ("", "seen", "unseen"), rows
    )
    alphas = [point["alpha"] for point in next(iter(curves.values()))[0]]
    curve_rows = [
        [row, *(f"{mean(at(found, a, 'seen')):.0f}/{mean(at(found, a, 'unseen')):.0f}" for a in alphas)]
        for row, found in curves.items()
    ]
    title = "seen/unseen along the way from the original CLIP (0) to the fine-tuned weights (1)"
    print_table(title, ("alpha", *(f"{alpha:.1f}" for alpha in alphas)), curve_rows)
    for text, holds in claims(curves).items():
        typer.echo(f"{'holds' if holds else 'DOES NOT HOLD'}: {text}")


def claims(curves: dict[str, list[Curve]]) -> dict[str, bool]:
    """The papers' claims, on means over the seeds."""

    def both(row: str, alpha: float) -> float:
        """The harmonic mean of seen and unseen."""
        seen, unseen = (mean(at(curves[row], alpha, key)) for key in ("seen", "unseen"))
        return 2 * seen * unseen / (seen + unseen)

    plain, iwo, averaged = "plain fine-tuning", "IWO", "IWO + averaging"
    frozen = mean(at(curves[plain], 0.0, "unseen"))
    inner = [point["alpha"] for point in curves[plain][0]][1:-1]
    return {
        "plain fine-tuning loses on unseen classes against frozen CLIP": mean(at(curves[plain], 1, "unseen"))
        < frozen,
        "some mixture is a better trade-off (harmonic mean) than either end, for plain fine-tuning": max(
            both(plain, alpha) for alpha in inner
        )
        > max(both(plain, 0.0), both(plain, 1.0)),
        "IWO does better on unseen classes than plain fine-tuning": mean(at(curves[iwo], 1, "unseen"))
        > mean(at(curves[plain], 1, "unseen")),
        "averaging improves the trade-off of IWO": both(averaged, 1.0) > both(iwo, 1.0),
        "at alpha = 0.5 IWO + averaging is a better trade-off than plain fine-tuning": both(
            averaged, TEST_TIME
        )
        > both(plain, TEST_TIME),
    }


def run(name: str, changes: list[str], seed: int, output: Path, settings: list[str]) -> Path:
    """The folder of one run, made now or kept from before."""
    folder = output / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    overrides = parse_overrides([*changes, f"run.seed={seed}", *settings])
    with display() as shown:
        shown.message(f"{name}, seed {seed}")
        recipe = build(Recipe, merge(read_recipe(RECIPE), overrides))
        train(recipe, folder, resume=True, reporter=shown)
    return folder


def sweep(checkpoint: Path) -> Curve:
    """Accuracies along the way from the original CLIP to a checkpoint, as `vactk interpolate` measures them."""
    kept = checkpoint.with_suffix(".curve.json")
    if not kept.exists():
        wanted = [
            "--dataset",
            "shapes/seen",
            "--dataset",
            "shapes/unseen",
            "--curve",
            str(kept.with_suffix("")),
        ]
        command = ["interpolate", str(checkpoint), "--sweep", "0:1:0.1", *wanted, "--json"]
        done = subprocess.run([sys.executable, "-m", "vactk", *command], stdout=subprocess.PIPE, check=True)
        kept.write_bytes(done.stdout)
    points: list[dict[str, Any]] = json.loads(kept.read_text())["points"]
    return [
        {"alpha": p["alpha"], **{split: p[f"shapes/{split}"]["top1"] for split in ("seen", "unseen")}}
        for p in points
    ]


def at(curves: list[Curve], alpha: float, key: str) -> list[float]:
    """One accuracy of every seed's curve."""
    return [next(point[key] for point in curve if abs(point["alpha"] - alpha) < 1e-9) for curve in curves]


def mean(values: list[float]) -> float:
    """The arithmetic mean."""
    return statistics.mean(values)


if __name__ == "__main__":
    typer.run(main)
