"""vactk train, vactk finetune"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vactk.cli import options
from vactk.cli.display import Display, percent, print_json, print_line, print_recalls, print_table
from vactk.cli.processes import run_on
from vactk.config import build, merge, parse_overrides, to_dict
from vactk.errors import VactkError
from vactk.files.atomic import refuse_unwritable
from vactk.recipes import read_recipe, recipe_purposes

if TYPE_CHECKING:
    from vactk.train.recipe import Recipe
    from vactk.train.run import TrainResult


def training_command(family: str, description: str) -> Callable[..., None]:
    """Return a command that trains by the recipe that a dataset names as its `family`."""

    def command(
        settings: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="KEY=VALUE",
                help="Recipe settings, such as optim.lr=1e-3.",
                show_default="the recipe's",
            ),
        ] = None,
        dataset: Annotated[options.Dataset, options.Setting("dataset")] = None,
        recipe: Annotated[
            str | None,
            typer.Option(
                help="Packaged recipe, or a YAML file; `list` shows what each is for.",
                show_default="the dataset's",
                rich_help_panel="Run",
            ),
        ] = None,
        output: Annotated[
            Path | None,
            typer.Option(help="Run folder.", show_default="a new one in runs/", rich_help_panel="Run"),
        ] = None,
        resume: Annotated[
            bool, typer.Option("--resume", help="Continue the run in --output.", rich_help_panel="Run")
        ] = False,
        shots: options.Shots = None,
        descriptions: options.Descriptions = None,
        checkpoint: Annotated[options.Checkpoint, options.Setting("start")] = None,
        backbone: options.Backbone = None,
        pretrained: options.Pretrained = None,
        templates: options.Templates = None,
        data_root: options.DataRoot = None,
        frames: options.Frames = None,
        views: options.Views = None,
        decoder: options.Decoder = None,
        workers: options.Workers = None,
        batch_size: Annotated[options.BatchSize, options.Setting("run.batch_size")] = None,
        epochs: Annotated[
            float | None,
            typer.Option(
                help="Passes over the training videos, such as 0.5.",
                show_default="the recipe's",
                rich_help_panel="Run",
            ),
            options.Setting("run.epochs"),
        ] = None,
        device: options.Device = None,
        precision: options.Precision = None,
        processes: options.Processes = None,
        seed: Annotated[
            int | None,
            typer.Option(min=0, rich_help_panel="Run", help="Random seed.", show_default="the recipe's, 0"),
            options.Setting("run.seed"),
        ] = None,
        json: options.Json = False,
    ) -> None:
        if recipe == "list":
            _list_recipes(as_json=json)
            return
        refuse_unwritable({"--output": output})
        run_on(processes, device)
        chosen = options.read_settings(command, locals())
        if resume and output is None:
            raise VactkError("--resume requires --output FOLDER, the run to continue")
        full_recipe, origin = _resolve(recipe or _resumed(output, resume), chosen, settings or [], family)
        folder = output or Path(
            "runs", f"{_short_name(full_recipe.dataset)}-{time.strftime('%Y%m%d-%H%M%S')}"
        )

        from vactk.train.run import train as run

        with Display() as display:
            result = run(full_recipe, folder, resume=resume, reporter=display, origin=origin)
        if json:
            print_json(dataclasses.asdict(result))
        else:
            _print(result)

    command.__doc__ = description
    return command


train = training_command(
    "recipe",
    """Adapt a frozen CLIP with temporal adapters to labelled videos, or to videos with captions.

    Ends with the accuracy on the dataset's test splits, or with retrieval on them. For example:

        vactk train --dataset shapes --output runs/first
        vactk train --dataset msrvtt --output runs/captions
    """,
)

finetune = training_command(
    "finetune_recipe",
    """Fine-tune CLIP's own weights with interpolated weight optimisation, and keep what it knew.

    Starts from CLIP, or from any --checkpoint. Mix the result with the original CLIP afterwards:

        vactk finetune --dataset shapes --output runs/tuned
        vactk interpolate runs/tuned --alpha 0.5
    """,
)


def _list_recipes(*, as_json: bool) -> None:
    """Print all packaged recipes, and what each is for."""
    known = [
        {"recipe": name, "purpose": purpose, "dataset": read_recipe(name).get("dataset", "any")}
        for name, purpose in recipe_purposes().items()
    ]
    if as_json:
        print_json({"recipes": known})
        return
    rows = ([item["recipe"], item["dataset"], item["purpose"]] for item in known)
    print_table("Recipes", ("recipe", "dataset", "what it is for"), rows)
    print_line(
        "--dataset takes its own recipe by default; --recipe FILE.yaml with `base: RECIPE` changes one."
    )


def _resumed(output: Path | None, resume: bool) -> str | None:
    """Return the settings of the run to continue."""
    config = output / "config.yaml" if output is not None and resume else None
    return str(config) if config is not None and config.exists() else None


def _resolve(
    recipe: str | None, chosen: dict[str, Any], settings: list[str], family: str
) -> tuple[Recipe, str]:
    """Merge the recipe, then options, then key=value; --checkpoint determines the model.

    Also returns where the recipe comes from. Epochs that are given count alone, without the recipe's least steps.
    """
    from vactk.data.datasets import find_dataset

    overrides = parse_overrides(settings)
    name = chosen.get("dataset") or overrides.get("dataset")
    origin = f"recipe {recipe}"
    if recipe is None:
        if not name:
            raise VactkError("no dataset: pass --dataset NAME, such as --dataset shapes, or --recipe")
        dataset = find_dataset(str(name))
        recipe = getattr(dataset, family)
        origin = f"recipe {recipe}, the default for {'your own videos' if dataset.own else name}"
    elif name:
        find_dataset(str(name))
    values = read_recipe(recipe)
    given = merge(chosen, overrides)
    if "epochs" in given.get("run", {}) and "run" in values:
        values["run"].pop("min_steps", None)

    from vactk.train.recipe import Recipe

    if "start" in chosen:
        from vactk.checkpoints.load import config_of

        values["model"] = to_dict(config_of(Path(chosen["start"]), chosen.pop("model", {})))
    full = build(Recipe, merge(merge(values, chosen), overrides))
    if not full.dataset:
        raise VactkError(f"recipe '{recipe}' names no dataset: pass --dataset NAME")
    if full.task.needs_classes and not find_dataset(full.dataset).labelled:
        raise VactkError(
            f"dataset '{full.dataset}' has no classes to train on: every video needs a label; to train on "
            "captions, use a recipe such as --recipe adapters-msrvtt"
        )
    return full, origin


def _short_name(dataset: str) -> str:
    """Return a dataset's name, or the last component of its path, as a folder name."""
    path = Path(dataset)
    return path.resolve().stem if path.exists() else dataset.replace("/", "-")


def _uses(result: TrainResult) -> str:
    """Say which videos were used for what."""
    trained, held_out = result.videos["trained"], result.videos["held_out"]
    tested = ", ".join(videos["split"] for videos in result.videos["tested"]) or "nothing"
    held = f"; {held_out['num_videos']:,} held out of them" if held_out else ""
    chosen = result.chosen
    weights = f"step {chosen['step']}, chosen by {chosen['by']}" if "score" in chosen else chosen["by"]
    return (
        f"trained on {trained['num_videos']:,} videos of {trained['split']}{held}; weights of {weights}; "
        f"tested on {tested}"
    )


def _print(result: TrainResult) -> None:
    by_captions = [metrics for metrics in result.metrics.values() if "t2v" in metrics]
    for metrics in by_captions:
        title = f"{metrics['protocol']}: {metrics['num_videos']:,} videos, {metrics['num_texts']:,} texts"
        print_recalls(title, metrics)
    rows = []
    for metrics in result.metrics.values() if not by_captions else ():
        split = [metrics["protocol"], str(metrics["num_videos"]), str(metrics["num_classes"])]
        for by, accuracy in {"similarity": metrics, **metrics}.items():
            if isinstance(accuracy, dict):
                rows.append([*split, by, percent(accuracy["top1"]), percent(accuracy["top5"])])
    if not by_captions:
        print_table("Accuracy, %", ("split", "videos", "classes", "by", "top-1", "top-5"), rows)
    if result.videos:  # runs of earlier versions do not say
        print_line(_uses(result))
    print_line(
        f"{result.steps} steps, {result.videos_per_s:.1f} videos/s, {100 * result.data_wait:.0f}% of the time "
        "waiting for data"
    )
    if result.failed:
        print_line(
            f"{len(result.failed)} training videos could not be read: see {result.run_dir}/result.json"
        )
    for warning in result.warnings:
        print_line(f"warning: {warning}")
    print_line(f"checkpoint: {result.checkpoint}")
