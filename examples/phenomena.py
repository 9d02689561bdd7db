"""Compare frozen CLIP, independent frames, adapters and plain fine-tuning on the embedded benchmark.

    python examples/phenomena.py --seeds 3 --output runs/phenomena

Trains every variant with every seed on `shapes`, prints a table of means and standard deviations over the
seeds, and says which of the claims about them hold here. Runs that are already in the output folder are kept.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from vactk.checkpoints.checkpoint import load_model
from vactk.cli.display import Display, print_table
from vactk.config import build, merge, parse_overrides
from vactk.data.records import VideoSet
from vactk.data.shapes import load_shapes
from vactk.data.shapes.stills import color_names, load_stills, shape_names
from vactk.data.shapes.world import MOTIONS
from vactk.distributed import make_accelerator
from vactk.evaluate.classifier import class_embeddings, similarity_scorer
from vactk.evaluate.metrics import topk_accuracy
from vactk.evaluate.scoring import score_videos
from vactk.models.video_model import ModelConfig, VideoModel, new_model
from vactk.recipes import read_recipe
from vactk.train.recipe import Recipe
from vactk.train.run import train

LOSSES = ["task.masked_words=0"]  # slow, and it says little about temporal modules
FINE_TUNED = ["task.towers=[vision]", "optim.tower_lr_factor=0.2"]
VARIANTS = {  # name -> what differs from the recipe m2clip-shapes; None: nothing is trained
    "frozen CLIP": None,
    "vision tower, frames apart": ["model.temporal=none", *FINE_TUNED],
    "plain fine-tuning": FINE_TUNED,
    "TED-Adapters": [],
    "ST-Adapters": ["model.temporal=st_adapter"],
}
CHANCE = 100 / len(MOTIONS)


@dataclass(frozen=True)
class Claim:
    """An expected phenomenon, and its check on the variants' mean accuracies."""

    text: str
    holds: Any  # Callable[[dict[str, dict[str, float]]], bool]


CLAIMS = [
    Claim(
        "(a) frozen CLIP is good on appearance: shape and colour above 85% on stills, shape above 75% on clips",
        lambda m: (
            min(m["frozen CLIP"][k] for k in ("still shape", "still color")) > 85
            and m["frozen CLIP"]["shape"] > 75
        ),
    ),
    Claim(
        "(a) and not on motion: of a known shape at most 5 points above 1 in 8, of a known axis at 1 in 2 +- 8",
        lambda m: m["frozen CLIP"]["motion"] < CHANCE + 5 and abs(m["frozen CLIP"]["direction"] - 50) < 8,
    ),
    Claim(
        "(b) frames apart cannot tell a motion from its opposite: within 8 points of 1 in 2, even fine-tuned",
        lambda m: abs(m["vision tower, frames apart"]["direction"] - 50) < 8,
    ),
    Claim(
        "(b) temporal modules can: above 80%",
        lambda m: min(m[k]["direction"] for k in ("TED-Adapters", "ST-Adapters")) > 80,
    ),
    Claim(
        "(d) adapters lose less than plain fine-tuning on what CLIP knew: colours of stills",
        lambda m: m["TED-Adapters"]["still color"] > m["plain fine-tuning"]["still color"],
    ),
    Claim(
        "(d) and shapes of stills",
        lambda m: m["TED-Adapters"]["still shape"] > m["plain fine-tuning"]["still shape"],
    ),
    Claim(
        "(d) and on unseen classes",
        lambda m: m["TED-Adapters"]["unseen"] > m["plain fine-tuning"]["unseen"],
    ),
]


def main(
    output: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("runs/phenomena"),
    seeds: Annotated[int, typer.Option(help="Seeds per variant.")] = 3,
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE")] = None,
) -> None:
    """Train, evaluate, and say which phenomena show."""
    found: dict[str, list[dict[str, float]]] = {}
    for name, changes in VARIANTS.items():
        for seed in range(seeds):
            folder = output / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
            found.setdefault(name, []).append(measured(name, changes, seed, folder, settings or []))
    columns = list(next(iter(found.values()))[0])
    rows = [[name, *(spread([run[c] for run in runs]) for c in columns)] for name, runs in found.items()]
    print_table(f"shapes, % (mean +- standard deviation of {seeds} seeds)", ["", *columns], rows)
    means = {
        name: {c: statistics.mean(run[c] for run in runs) for c in columns} for name, runs in found.items()
    }
    for claim in CLAIMS:
        typer.echo(f"{'holds' if claim.holds(means) else 'DOES NOT HOLD'}: {claim.text}")


def measured(
    name: str, changes: list[str] | None, seed: int, folder: Path, settings: list[str]
) -> dict[str, float]:
    """Return the accuracies of one run, trained now or earlier."""
    kept = folder / "phenomena.json"
    if kept.exists():
        return json.loads(kept.read_text())
    torch.manual_seed(seed)
    overrides = merge(
        parse_overrides([*LOSSES, *(changes or []), f"run.seed={seed}"]), parse_overrides(settings)
    )
    recipe = build(Recipe, merge(read_recipe("m2clip-shapes"), overrides))
    if changes is None:
        model = new_model(ModelConfig(backbone=recipe.model.backbone))
    else:
        with Display() as display:
            display.message(f"{name}, seed {seed}")
            train(recipe, folder, resume=True, reporter=display)
        model = load_model(folder)
    accuracies = measure(model, recipe, seed)
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(accuracies))
    return accuracies


def measure(model: VideoModel, recipe: Recipe, seed: int) -> dict[str, float]:
    """Return accuracies: classes, shape, motion given the shape, direction given its axis, and stills."""
    accelerator = make_accelerator("cpu", "fp32")
    result = {}
    for split in ("seen", "unseen"):
        videos = load_shapes(split)
        scores, labels = class_scores(model, videos, recipe, accelerator)
        result[split] = topk_accuracy(scores, labels, 1)
    seen = load_shapes("seen")
    every = every_motion(seen)
    scores, labels = class_scores(model, every, recipe, accelerator)
    by_shape = scores.unflatten(1, (-1, len(MOTIONS)))  # (N, shapes, motions)
    shape, motion = labels // len(MOTIONS), labels % len(MOTIONS)
    result["shape"] = topk_accuracy(by_shape.logsumexp(dim=2), shape, 1)
    of_shape = by_shape[torch.arange(len(shape)), shape]  # (N, motions)
    result["motion"] = topk_accuracy(of_shape, motion, 1)
    axis = motion // 2  # opposite motions stand side by side
    pairs = of_shape.unflatten(1, (-1, 2))[torch.arange(len(axis)), axis]
    result["direction"] = topk_accuracy(pairs, motion % 2, 1)
    return {**result, **still_accuracies(model, seed)}


def every_motion(videos: VideoSet) -> VideoSet:
    """Return the same videos with all motions of all their shapes as classes, shape by shape."""
    shapes = list(dict.fromkeys(name.split(" ", 1)[0] for name in videos.classes))
    classes = tuple(f"{shape} {motion}" for shape in shapes for motion in MOTIONS)
    records = []
    for record in videos.records:
        assert record.label is not None
        label = classes.index(videos.classes[record.label])
        records.append(type(record)(video=record.video, label=label, captions=record.captions))
    return VideoSet(name="shapes", split="seen", classes=classes, words=classes, records=tuple(records))


def class_scores(model: VideoModel, videos: VideoSet, recipe: Recipe, accelerator: Any) -> tuple[Any, Any]:
    """Return log-probabilities (N, C) by similarity to class names, and labels (N,)."""
    embeddings = class_embeddings(model, videos.words, ("a {}",), accelerator.device)
    scorers = {"similarity": similarity_scorer(model, embeddings)}
    scores = score_videos(model, videos, scorers, recipe.evaluation, accelerator)
    labels = torch.tensor([record.label for record in videos.records])
    return scores.probabilities["similarity"].log(), labels


@torch.no_grad()
def still_accuracies(model: VideoModel, seed: int) -> dict[str, float]:
    """Return zero-shot accuracy on still images, as videos of one frame: what CLIP knew before training."""
    stills = load_stills("test", 1000, seed)
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.backbone.mean, model.backbone.std))
    pictures = ((stills.images / 255 - mean) / std)[:, None]  # (N, 1, 3, H, W)
    embeddings = torch.cat([model.video_clip.encode_video(part) for part in pictures.split(256)])
    found = {}
    for name, words, labels in (
        ("still shape", shape_names(), stills.shapes),
        ("still color", tuple(f"{color} object" for color in color_names()), stills.colors),
    ):
        texts = class_embeddings(model, words, ("a {}",), torch.device("cpu"))
        found[name] = topk_accuracy(embeddings @ texts.T, labels, 1)
    return found


def spread(values: list[float]) -> str:
    """Format mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} +- {deviation:.1f}"


if __name__ == "__main__":
    typer.run(main)
