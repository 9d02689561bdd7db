"""vactk zeroshot"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from vactk.cli import options
from vactk.cli.display import (
    Display,
    describe_conditions,
    is_main_process,
    percent,
    print_json,
    print_line,
    print_table,
    print_unreadable,
)
from vactk.cli.processes import run_on
from vactk.errors import VactkError
from vactk.files.atomic import refuse_existing

if TYPE_CHECKING:
    from vactk.evaluate.protocol import Protocol, Published
    from vactk.evaluate.protocol_splits import ProtocolData
    from vactk.evaluate.results import ClassifierName, Unreadable

MAX_LABELS = 3  # that a table shows of each video; --json has all


class ZeroShotOptions(NamedTuple):
    """Options of the command that say how videos are classified."""

    checkpoint: Path | None
    by: ClassifierName
    overrides: dict[str, Any]  # by a recipe's keys
    unreadable: Unreadable
    max_failed: float
    output: Path | None  # folder for predictions and a report

    @property
    def data_root(self) -> Path | None:
        return Path(self.overrides["data_root"]) if "data_root" in self.overrides else None


def zeroshot(
    videos: Annotated[
        list[Path] | None, typer.Argument(help="Video files, or folders to search for files.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help='Labels to choose from: "a,b,c", or a file with one label per line.'),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Published evaluation protocol, such as hmdb51/ep2; `list` shows all.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    dataset: options.Dataset = None,
    split: options.Split = None,
    checkpoint: options.Checkpoint = None,
    temporal: options.Temporal = None,
    backbone: options.Backbone = None,
    pretrained: options.Pretrained = None,
    by: Annotated[
        Literal["similarity", "class_head", "ensemble"],
        typer.Option(
            help="Classifier: similarity to the label texts or, for classes trained on, class_head or the "
            "ensemble of both.",
            rich_help_panel=options.MODEL,
        ),
    ] = "similarity",
    output: Annotated[
        Path | None,
        typer.Option(
            help="New folder for predictions.csv and report.html of a dataset or protocol.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    templates: options.Templates = None,
    data_root: options.DataRoot = None,
    frames: options.Frames = None,
    views: options.Views = None,
    unreadable: Annotated[
        Literal["wrong", "skip"],
        typer.Option(
            help="Missing and unreadable videos of a dataset: count as wrong, or skip (the accuracy is over the "
            "others, and says so).",
            rich_help_panel=options.DATA,
        ),
    ] = "wrong",
    max_failed: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of such videos above which to stop.", rich_help_panel=options.DATA
        ),
    ] = 0.5,
    decoder: options.Decoder = None,
    workers: options.Workers = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    precision: options.Precision = None,
    processes: options.Processes = None,
    json: options.Json = False,
) -> None:
    """Classify videos by labels that the model need never have been trained on.

    Files get a probability for each label; a dataset or protocol gets accuracies. For example:

        vactk zeroshot clips/ --labels "juggling,arm wrestling,waving" --backbone toy
        vactk zeroshot --dataset shapes --split unseen --checkpoint runs/first
        vactk zeroshot --protocol hmdb51/ep2 --data-root /data --checkpoint runs/first
    """
    if protocol == "list":
        _list_protocols(as_json=json)
        return
    overrides = options.read_settings(zeroshot, locals())
    options.refuse(
        {
            "give either videos with --labels, or a --dataset, or a --protocol": (
                (bool(videos), bool(dataset), bool(protocol)).count(True) != 1
            ),
            "pass --labels, or a --checkpoint trained on labelled classes": videos
            and not labels
            and checkpoint is None,
            "a dataset brings its own labels: leave out --labels": not videos and labels,
            "a protocol names its own splits: leave out --split": protocol and split,
            "--output is a folder for the report of a --dataset or --protocol": videos and output,
            "--temporal says what another project's --checkpoint does not: name that file": temporal
            and checkpoint is None,
        }
    )
    run_on(processes, device)
    if output is not None:
        refuse_existing(output)
    asked = ZeroShotOptions(checkpoint, by, overrides, unreadable, max_failed, output)
    with Display() as display:
        if videos:
            result, show = _classify(asked, videos, labels, display), _print_predictions
        else:
            data, recipe = _load_data(asked, protocol, dataset, split, display)
            result, show = _evaluate(asked, data, recipe, display), _print_result
    (print_json if json else show)(result)
    if videos and not result["predictions"]:
        raise VactkError(f"none of the files could be read; the first: {result['failed'][0]['error']}")


def _load_data(
    asked: ZeroShotOptions, protocol: str | None, dataset: str | None, split: str | None, display: Display
) -> tuple[ProtocolData, str]:
    """Find the videos of the protocol or split, and the name of the dataset's recipe."""
    from vactk.data.datasets import find_dataset
    from vactk.evaluate.protocol import find_protocol
    from vactk.evaluate.protocol_splits import load_protocol_data, load_split_data

    if dataset is not None:
        progress = display.progress(f"{dataset}: videos")
        data = load_split_data(dataset, split, asked.data_root, progress)
        return data, find_dataset(dataset).recipe
    found = find_protocol(str(protocol))
    if found.task == "retrieval":
        raise VactkError(f"'{found.name}' is a retrieval protocol: evaluate it with `vactk retrieve`")
    return load_protocol_data(found, asked.data_root), find_dataset(found.dataset).recipe


def _evaluate(asked: ZeroShotOptions, data: ProtocolData, recipe: str, display: Display) -> dict[str, Any]:
    from vactk.evaluate.classifier import check_answer
    from vactk.evaluate.setup import load_for_evaluation, prepare_model
    from vactk.evaluate.zero_shot import check_missing, score_protocol, summarize
    from vactk.recipes import read_recipe

    name = data.protocol.name
    for note in data.notes:
        display.message(f"{name}: {note}")
    check_missing(data.videos, asked.max_failed)
    model, config = load_for_evaluation(
        asked.checkpoint, asked.overrides, read_recipe(recipe), display.message
    )
    for part in data.splits:
        check_answer(asked.by, model.heads, data.videos.classes, part.classes)
    accelerator = prepare_model(model, config)
    evaluated = score_protocol(
        model, data, config, accelerator, max_failed=asked.max_failed, progress=display.progress(name)
    )
    result = {
        **summarize(data, evaluated.scores, asked.unreadable).to_json(asked.by),
        "frames": config.data.num_frames,
        "views": config.data.views,
        "crops": config.data.transform.eval_crops,
        "templates": config.templates,
        "model": str(asked.checkpoint or model.config.backbone.name),
    }
    if asked.output is not None and is_main_process():
        from vactk.evaluate.report_files import save_evaluation, save_report

        save_evaluation(asked.output, model, evaluated, config, accelerator.device, result, asked.checkpoint)
        save_report(asked.output, display.message)
    return result


def _classify(
    asked: ZeroShotOptions, paths: list[Path], labels: str | None, display: Display
) -> dict[str, Any]:
    names = options.read_labels(labels) if labels is not None else None
    files = _find_files(paths)

    from vactk.evaluate.predictor import Predictor
    from vactk.evaluate.setup import load_for_evaluation

    model, config = load_for_evaluation(asked.checkpoint, asked.overrides, {}, display.message)
    predictor = Predictor(model, names, by=asked.by, config=config)
    return predictor.predict(files, progress=display.progress("videos")).to_json()


def _find_files(paths: list[Path]) -> list[Path]:
    """Return the files, and every file under the folders that is not hidden, once each, sorted per folder."""
    files: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise VactkError(f"there is no file or folder '{path}'")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.is_file() and not hidden:
                files[file] = None
    if not files:
        raise VactkError(f"there are no files in '{paths[0]}'")
    return list(files)


def _print_result(result: dict[str, Any]) -> None:
    """Print a row for each split, then their mean."""
    rows = [
        [
            split["name"],
            str(split["num_classes"]),
            str(split["num_videos"]),
            str(split["num_unreadable"]),
            percent(split["top1"]),
            percent(split["top5"]),
        ]
        for split in result["draws"]
    ]
    if "harmonic_mean" in result:
        rows.append(["harmonic mean", "", "", "", percent(result["harmonic_mean"]), ""])
    elif len(rows) > 1:
        means = [f"{percent(result[k])} +- {percent(result[f'{k}_sd'])}" for k in ("top1", "top5")]
        rows.append(["mean +- sd", "", "", "", *means])
    title = (
        f"{result['protocol']}: {result['title']}\n{result['num_classes']} classes, "
        f"{result['num_videos']:,} videos in all, accuracy of {result['model']} in %, by {result['by']}\n"
        f"{describe_conditions(result)}"
    )
    print_table(title, ("split", "classes", "videos", "unreadable", "top-1", "top-5"), rows)
    print_unreadable(result)
    _print_notes(result)


def _print_predictions(result: dict[str, Any]) -> None:
    rows = []
    for prediction in result["predictions"]:
        best = prediction["labels"][:MAX_LABELS]
        rows.append(
            [prediction["video"], *(f"{item['label']} {100 * item['probability']:.1f}%" for item in best)]
        )
    if rows:
        ranks = [f"{number}." for number in range(1, max(map(len, rows)))]
        print_table("Predicted labels", ("video", *ranks), rows)
    print_unreadable(result)
    _print_notes(result)


def _print_notes(result: dict[str, Any]) -> None:
    for note in result["notes"]:
        print_line(f"note: {note}")


def _list_protocols(*, as_json: bool) -> None:
    """Print all protocols, each with the results published for it."""
    from vactk.evaluate.protocol import protocols, published

    numbers = {name: [row for row in published() if row.protocol == name] for name in protocols()}
    if as_json:
        known = [
            {
                "protocol": p.name,
                "task": p.task,
                "title": p.title,
                "source": p.source,
                "num_classes": p.num_classes,
                "num_videos": list(p.num_videos),
                "hash": p.hash,
                "published": [
                    {key: value for key, value in vars(row).items() if key != "protocol"}
                    for row in numbers[p.name]
                ],
            }
            for p in protocols().values()
        ]
        print_json({"protocols": known})
        return
    rows = ([p.name, _description(p), _published(numbers[p.name])] for p in protocols().values())
    title = "Protocols, with published results in % (base / novel / harmonic mean, R@1 / R@5 / R@10)"
    print_table(title, ("protocol", "classes and videos", "published"), rows)
    print_line("--json has their sources; the guide to reproduction has the command for each.")


def _description(protocol: Protocol) -> str:
    """Format what is measured, the numbers of videos, and the content's hash, a line for each."""
    counts = [f"{count:,}" for count in protocol.num_videos]
    shown = f"{len(counts)} x {counts[0]}" if len(counts) > 1 and len({*counts}) == 1 else ", ".join(counts)
    lines = [protocol.title, shown and f"videos: {shown}", protocol.hash and f"content: {protocol.hash}"]
    return "\n".join(filter(None, lines))


def _published(rows: Sequence[Published]) -> str:
    """Format the results, a line for each method and backbone."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        value = f"{row.value:.1f}" if row.sd is None else f"{row.value:.1f} +- {row.sd:.1f}"
        size = row.backbone.removeprefix("ViT-").replace("-", "/")
        lines.setdefault(f"{row.method} {size}", []).append(value)
    return "\n".join(f"{method}: {' / '.join(values)}" for method, values in lines.items()) or "-"
