"""vactk interpolate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vactk.cli import options
from vactk.cli.display import display, percent, print_json, print_line, print_table
from vactk.cli.mixing import (
    check_count,
    choose_output,
    find_files,
    read_alpha_of,
    read_merge_options,
    refuse_same,
)
from vactk.cli.mixture import MergeRun, find_sets
from vactk.config import nest
from vactk.errors import VactkError

MIX, OUTPUT = "How to mix", "Output"


def interpolate(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            help="A and B, or more: checkpoints, run folders, folders of them, weights of a plain CLIP. "
            "Of one alone, A is the original CLIP that it started from."
        ),
    ],
    alpha: Annotated[
        float | None,
        typer.Option(
            help="(1 - alpha) A + alpha B: 0 is A, 1 is B, outside of that it extrapolates.",
            rich_help_panel=MIX,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="A weight for each checkpoint, as 1,1,2; divided by their sum.", rich_help_panel=MIX
        ),
    ] = None,
    soup: Annotated[
        str | None,
        typer.Option(
            help="uniform: the mean of all; greedy: of those that help on --dataset.", rich_help_panel=MIX
        ),
    ] = None,
    task_vector: Annotated[
        float | None, typer.Option(help="x of A + x (B - C), for three checkpoints.", rich_help_panel=MIX)
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(help="Measure alphas START:STOP:STEP, as 0:1:0.1, on --dataset.", rich_help_panel=MIX),
    ] = None,
    alpha_of: Annotated[
        list[str] | None,
        typer.Option(
            help="Another alpha for a part, as vision=0.3, text.0-5=0, 'clip.*.attn.*=1'; later ones win.",
            rich_help_panel=MIX,
        ),
    ] = None,
    drop_heads: Annotated[
        bool, typer.Option("--drop-heads", help="Leave out class and word heads.", rich_help_panel=MIX)
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The result; by default a new interpolated.safetensors here. Of a sweep, the best one.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    curve: Annotated[
        Path | None,
        typer.Option(help="A sweep's curve, without suffix; by default sweep, here.", rich_help_panel=OUTPUT),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="What to measure on, several times if need be: NAME, or NAME/SPLIT.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    split: options.Split = None,
    temporal: options.Temporal = None,
    backbone: options.Backbone = None,
    pretrained: options.Pretrained = None,
    templates: options.Templates = None,
    data_root: options.DataRoot = None,
    frames: options.Frames = None,
    views: options.Views = None,
    decoder: options.Decoder = None,
    workers: options.Workers = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    precision: options.Precision = None,
    json: options.Json = False,
) -> None:
    """Mix the weights of checkpoints: (1 - alpha) A + alpha B, averages, soups, task vectors, sweeps of alpha.

    Parameters that a checkpoint lacks stand at their values in the original CLIP. For example:

        vactk interpolate a.safetensors b.safetensors --alpha 0.5
        vactk interpolate runs/first --sweep 0:1:0.1 --dataset shapes
    """
    mix = read_merge_options(alpha, weights, soup, task_vector, sweep)
    parts = read_alpha_of(alpha_of or [])
    if parts and mix.alpha is None and mix.alphas is None:
        raise VactkError("--alpha-of changes an --alpha or a --sweep: give one of them")
    measured = mix.alphas is not None or mix.soup == "greedy"
    if measured != bool(dataset):
        raise VactkError(
            "what to measure on? name a --dataset" if measured
            else "--dataset is for --sweep and --soup greedy"
        )  # fmt: skip
    files = find_files(checkpoints)
    with_original = len(files) == 1 and (mix.alpha is not None or mix.alphas is not None)
    check_count(files, mix, with_original=with_original)
    refuse_same(files, mix)
    target = choose_output(output, files) if output or mix.alphas is None else None
    given = {
        "data_root": None if data_root is None else str(data_root),
        "templates": templates,
        "model.backbone.name": backbone,
        "model.backbone.pretrained": pretrained,
        "model.temporal": options.read_yaml_value("--temporal", temporal),
        "data.num_frames": frames,
        "data.views": views,
        "data.decoder": decoder,
        "data.workers": workers,
        "run.eval_batch_size": batch_size,
        "run.device": device,
        "run.precision": precision,
    }
    with display() as shown:
        sets = find_sets(dataset or [], split)
        work = MergeRun(mix, parts, nest(given), shown)
        work.open(files, with_original=with_original, heads=not drop_heads)
        if mix.alphas is not None:
            result = work.sweep(sets, target, curve or Path("sweep"))
        else:
            assert target is not None
            result = work.save(target, sets)
    if json:
        print_json(result)
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    if "points" not in result:
        for tried in result.get("soup", ()):
            kept = "kept" if tried["kept"] else "left out"
            print_line(
                f"{tried['path']}: {percent(tried['alone'])} alone, {percent(tried['soup'])} with it, {kept}"
            )
        names = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        for place, parent in enumerate(result["parents"]):
            letter = names[place] if place < len(names) else str(place + 1)
            print_line(f"{letter} = {parent['path']}")
        print_line(f"{result['output']} = {result['formula']}")
        return
    best = result["best"]
    columns = _columns(best)
    rows = []
    for point in result["points"]:
        mark = "  best" if point["alpha"] == best["alpha"] else ""
        rows.append([f"{point['alpha']:g}{mark}", *(percent(value) for value in _columns(point).values())])
    print_table("Top-1 of (1 - alpha) A + alpha B, %", ("alpha", *columns), rows)
    print_line(result["direction"])
    print_line(f"best trade-off: alpha {best['alpha']:g}, harmonic mean {percent(best['trade_off'])}")
    for path in result["curve"]:
        print_line(f"curve: {path}")
    if "output" in result:
        print_line(f"{result['output']} = (1 - {best['alpha']:g}) A + {best['alpha']:g} B")


def _columns(point: dict[str, Any]) -> dict[str, float]:
    columns = {}
    for key, value in point.items():
        if not isinstance(value, dict):
            continue
        if "splits" in value:
            columns.update({f"{key}/{split}": found["top1"] for split, found in value["splits"].items()})
        else:
            columns[key] = value["top1"]
    return columns
