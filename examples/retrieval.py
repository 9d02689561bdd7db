"""Text-to-video and video-to-text retrieval on the embedded benchmark: the frozen toy CLIP, and trained models.

    python examples/retrieval.py --seeds 3 --output runs/retrieval

The videos are new ones, whose captions ("a small red star moving left over stripes") no two of them share. Models
are trained on class names alone ("star moving left"), and on the captions of their videos too. Runs that are
already in the output folder are kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from phenomena import spread

from vactk import load_model, new_model
from vactk.cli.display import Display, print_table
from vactk.config import build, merge, parse_overrides
from vactk.data.config import DataConfig
from vactk.data.shapes import load_shapes
from vactk.distributed import make_accelerator
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.retrieval import RetrievalResult, evaluate_retrieval
from vactk.models.backbone import BackboneConfig
from vactk.models.video_model import ModelConfig, VideoModel
from vactk.recipes import read_recipe
from vactk.train.recipe import Recipe
from vactk.train.run import train

RECIPE = "m2clip-shapes"
HALF = 0.5


def main(
    output: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("runs/retrieval"),
    seeds: Annotated[int, typer.Option(help="Seeds per variant.")] = 3,
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE")] = None,
) -> None:
    """Train, evaluate retrieval, and print the table."""
    captions = output / "captions.jsonl"
    write_captions(captions)
    variants = {"class names": [], "class names and captions": [f"descriptions={captions}"]}
    results = {"frozen toy CLIP": [measured(new_model(ModelConfig(backbone=BackboneConfig(name="toy"))))]}
    for name, changes in variants.items():
        for seed in range(seeds):
            folder = output / f"{name.replace(' ', '-')}-{seed}"
            overrides = parse_overrides([*changes, f"run.seed={seed}", *(settings or [])])
            with Display() as display:
                display.message(f"{name}, seed {seed}")
                recipe = build(Recipe, merge(read_recipe(RECIPE), overrides))
                train(recipe, folder, resume=True, reporter=display)
            results.setdefault(name, []).append(measured(load_model(folder)))
            results.setdefault(f"{name}, half way to CLIP", []).append(measured(half_way(folder)))
    num_videos = next(iter(results.values()))[0].num_videos
    title = (
        f"shapes, {num_videos} videos with a caption each, % (mean +- standard deviation of {seeds} seeds)"
    )
    names = [f"{way} {metric}" for way in ("t2v", "v2t") for metric in ("R@1", "R@5", "R@10")]
    print_table(title, ("trained on", *names), [[name, *columns(found)] for name, found in results.items()])


def write_captions(path: Path) -> None:
    """Write the captions of the training videos as descriptions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"video": str(record.video), "descriptions": list(record.captions)})
        for record in load_shapes("train").records
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def half_way(folder: Path) -> VideoModel:
    """Return the mean of the trained and the original weights."""
    mixture = folder / "half.safetensors"
    if not mixture.exists():
        command = [sys.executable, "-m", "vactk", "interpolate", str(folder), "--alpha", str(HALF)]
        subprocess.run([*command, "--output", str(mixture)], check=True, stdout=subprocess.DEVNULL)
    return load_model(mixture)


def measured(model: VideoModel) -> RetrievalResult:
    """Evaluate retrieval on the benchmark's retrieval split."""
    config = EvalConfig(data=DataConfig(num_frames=8))
    return evaluate_retrieval(model, load_shapes("retrieval"), config, make_accelerator("cpu", "fp32"))


def columns(results: list[RetrievalResult]) -> list[str]:
    """Return recalls in both directions."""
    ways = [[r.text_to_video for r in results], [r.video_to_text for r in results]]
    return [spread([found.recall[k] for found in way]) for way in ways for k in (1, 5, 10)]


if __name__ == "__main__":
    typer.run(main)
