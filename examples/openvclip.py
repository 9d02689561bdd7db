"""Open-VCLIP's claims on the embedded benchmark: what fine-tuning forgets, and what brings it back.

    python examples/openvclip.py --seeds 3 --output runs/openvclip

Fine-tunes CLIP plainly, with interpolated weight optimisation (IWO) and with averaging, once with attention over
neighbouring frames and once with TED-Adapters; mixes each with the original CLIP in steps of alpha; prints the
accuracies on seen and unseen classes and on still pictures, and the curves, and says which claims hold. Runs
that are already in the output folder are kept.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from phenomena import spread, still_accuracies

from vactk.checkpoints.checkpoint import load_model
from vactk.cli.display import Display, print_table
from vactk.config import build, merge, parse_overrides
from vactk.recipes import read_recipe
from vactk.train.recipe import Recipe
from vactk.train.run import LAST, train

RECIPE = "openvclip-shapes"
PLAIN = ["interpolated.weight=0", "average.every_epochs=0"]
TED = ["model.temporal=ted_adapter", "optim.lr=5e-3", "optim.tower_lr_factor=0.2"]
RUNS = {"plain": PLAIN, "IWO": [], "TED plain": [*TED, *PLAIN], "TED IWO": TED}
WHOLE = "model.safetensors"
CURVES = {  # row of the table -> run, file of it
    "plain": ("plain", WHOLE),
    "IWO": ("IWO", LAST),
    "IWO, averaged": ("IWO", WHOLE),
    "TED plain": ("TED plain", WHOLE),
    "TED IWO": ("TED IWO", LAST),
    "TED IWO, averaged": ("TED IWO", WHOLE),
}
HALF, END = 0.5, 1.0  # of the way from the original CLIP to the fine-tuned weights
COLUMNS = ("seen", "unseen", "still shape", "still color")
Point = dict[str, float]  # alpha, seen, unseen; stills at HALF and END
Means = dict[str, dict[float, Point]]  # row -> alpha -> means over the seeds


def main(
    output: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("runs/openvclip"),
    seeds: Annotated[int, typer.Option(help="Seeds per variant.")] = 3,
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE")] = None,
) -> None:
    """Train, interpolate, evaluate, and say which claims hold."""
    curves: dict[str, list[list[Point]]] = {}
    for seed in range(seeds):
        folders = {name: run(name, changes, seed, output, settings or []) for name, changes in RUNS.items()}
        for row, (name, file) in CURVES.items():
            curves.setdefault(row, []).append(curve(folders[name] / file, seed))
    rows = []
    for row, found in curves.items():
        for title, alpha in ((row, END), ("    half way to CLIP", HALF)):
            rows.append([title, *(spread(at(found, alpha, column)) for column in COLUMNS)])
    title = f"shapes, top-1 in % (mean +- standard deviation of {seeds} seeds)"
    print_table(title, ("", *COLUMNS), rows)
    alphas = [point["alpha"] for point in next(iter(curves.values()))[0]]
    means = {
        row: {a: {c: statistics.mean(at(found, a, c)) for c in found[0][i]} for i, a in enumerate(alphas)}
        for row, found in curves.items()
    }
    title = "seen/unseen on the way from the original CLIP (0) to the fine-tuned weights (1)"
    curve_rows = [
        [f"{a:.1f}", *(f"{means[row][a]['seen']:.0f}/{means[row][a]['unseen']:.0f}" for row in means)]
        for a in alphas
    ]
    print_table(title, ("alpha", *means), curve_rows)
    for text, holds in claims(means).items():
        typer.echo(f"{'holds' if holds else 'DOES NOT HOLD'}: {text}")


def claims(means: Means) -> dict[str, bool]:
    """Return the papers' claims, with TED-Adapters: without them no order of frames can be learnt."""
    plain, iwo, averaged = (means[row] for row in ("TED plain", "TED IWO", "TED IWO, averaged"))
    kept, known = "still color", ("seen", "still color")
    inner = [alpha for alpha in plain if 0 < alpha < 1]
    both = ("seen", "unseen")
    return {
        "attention over neighbouring frames cannot learn an order of frames: seen below 50": max(
            means[row][END]["seen"] for row in ("plain", "IWO", "IWO, averaged")
        )
        < 50,
        "plain fine-tuning forgets: colours of stills 20 points below 99.9": plain[END][kept] < 79.9,
        "plain fine-tuning loses on unseen classes against frozen CLIP": plain[END]["unseen"]
        < plain[0.0]["unseen"],
        "half way to CLIP is a better trade-off of seen classes and stills than the end, plainly fine-tuned": (
            harmonic(plain[HALF], known) > harmonic(plain[END], known)
        ),
        "some mixture is a better trade-off of seen and unseen classes than either end, plainly fine-tuned": (
            max(harmonic(plain[alpha], both) for alpha in inner)
            > max(harmonic(plain[alpha], both) for alpha in (0.0, END))
        ),
        "IWO forgets less than plain fine-tuning: colours of stills": iwo[END][kept] > plain[END][kept],
        "IWO does better on unseen classes than plain fine-tuning": iwo[END]["unseen"] > plain[END]["unseen"],
        "averaging improves the trade-off of seen and unseen classes of IWO": harmonic(averaged[END], both)
        > harmonic(iwo[END], both),
        "half way to CLIP, IWO with averaging has a better trade-off of seen and unseen classes than plain "
        "fine-tuning": harmonic(averaged[HALF], both) > harmonic(plain[HALF], both),
    }


def harmonic(point: Point, columns: tuple[str, ...]) -> float:
    """Return the harmonic mean of accuracies."""
    return statistics.harmonic_mean([point[column] for column in columns])


def run(name: str, changes: list[str], seed: int, output: Path, settings: list[str]) -> Path:
    """Return the folder of one run, trained now or earlier."""
    folder = output / f"{name.replace(' ', '-')}-{seed}"
    overrides = parse_overrides([*changes, f"run.seed={seed}", *settings])
    with Display() as display:
        display.message(f"{name}, seed {seed}")
        recipe = build(Recipe, merge(read_recipe(RECIPE), overrides))
        train(recipe, folder, resume=True, reporter=display)
    return folder


def curve(checkpoint: Path, seed: int) -> list[Point]:
    """Return accuracies between the original CLIP and the trained one by `vactk interpolate`, and on stills."""
    kept = checkpoint.with_suffix(".curve.json")
    if not kept.exists():
        wanted = ["--dataset", "shapes/seen", "--dataset", "shapes/unseen"]
        drawn = ["--curve", str(checkpoint.with_suffix(".curve"))]
        sweep = interpolate(checkpoint, "--sweep", "0:1:0.1", *wanted, *drawn)
        points = [
            {"alpha": p["alpha"], **{s: p[f"shapes/{s}"]["top1"] for s in ("seen", "unseen")}}
            for p in sweep["points"]
        ]
        half = checkpoint.with_suffix(".half.safetensors")
        half.unlink(missing_ok=True)
        interpolate(checkpoint, "--alpha", str(HALF), "--output", str(half))
        for alpha, file in ((HALF, half), (END, checkpoint)):
            place = next(point for point in points if abs(point["alpha"] - alpha) < 1e-9)
            place.update(still_accuracies(load_model(file), seed))
        kept.write_text(json.dumps(points))
    return json.loads(kept.read_text())


def interpolate(checkpoint: Path, *options: str) -> dict[str, Any]:
    """Return the JSON of `vactk interpolate`."""
    command = [sys.executable, "-m", "vactk", "interpolate", str(checkpoint), *options, "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def at(curves: list[list[Point]], alpha: float, column: str) -> list[float]:
    """Return one accuracy from every seed's curve."""
    return [next(p[column] for p in points if abs(p["alpha"] - alpha) < 1e-9) for points in curves]


if __name__ == "__main__":
    typer.run(main)
