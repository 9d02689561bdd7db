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
from vactk.cli.zeroshot_videos import VideoOptions, classify, print_answers
from vactk.errors import VactkError
from vactk.evaluate.protocol import find_protocol
from vactk.files.atomic import refuse_existing

if TYPE_CHECKING:
    from vactk.evaluate.protocol import Protocol, Published
    from vactk.evaluate.protocol_splits import ProtocolData
    from vactk.evaluate.results import ClassifierName, Unreadable

OVER_TIME, ANSWERS = "Over time", "Answers"


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
        list[Path] | None,
        typer.Argument(
            help="Video files, or folders to search for files.", show_default="none: --dataset or --protocol"
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help='Labels to choose from: "a,b,c", or a file with one label per line.',
            show_default="the classes that the checkpoint was trained on",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Published evaluation protocol, such as hmdb51/ep2; `list` shows all.",
            show_default="none",
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
    templates: options.Templates = None,
    window: Annotated[
        float | None,
        typer.Option(
            help="Seconds of a window: say what videos show when, window by window. [default: videos as wholes]",
            rich_help_panel=OVER_TIME,
        ),
    ] = None,
    stride: Annotated[
        float | None,
        typer.Option(
            help="Seconds between the starts of windows. [default: a quarter of --window]",
            rich_help_panel=OVER_TIME,
        ),
    ] = None,
    multi_label: Annotated[
        bool,
        typer.Option(
            "--multi-label",
            help="Any number of labels at a time; otherwise the best one, or none of these.",
            rich_help_panel=OVER_TIME,
        ),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=-1,
            max=1,
            help="Cosine similarity that a label must exceed, else the answer is none of these. [default: found "
            "for each window: the best similarity of 100 unrelated phrases]",
            rich_help_panel=OVER_TIME,
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1, help="Labels of each video. [default: 3 in the table, else all]", rich_help_panel=ANSWERS
        ),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            help="File for the answers to videos: .csv, .json or .jsonl; with --window also .srt (subtitles), .png "
            "or .svg (a picture of the timeline). Repeatable. For a dataset or protocol, a new folder for "
            "predictions.csv and report.html. [default: none is written]",
            rich_help_panel=ANSWERS,
        ),
    ] = None,
    data_root: options.DataRoot = None,
    frames: options.Frames = None,
    views: options.Views = None,
    unreadable: options.Unreadable = "wrong",
    max_failed: options.MaxFailed = 0.5,
    decoder: options.Decoder = None,
    workers: options.Workers = None,
    batch_size: options.BatchSize = None,
    device: options.Device = None,
    precision: options.Precision = None,
    processes: options.Processes = None,
    json: options.Json = False,
) -> None:
    """Classify videos by labels that the model need never have been trained on.

    Files get a probability for each label, or with --window what they show when; a dataset or protocol gets
    accuracies. For example:

        vactk zeroshot clips/ --labels "juggling,arm wrestling,waving" --output answers.csv
        vactk zeroshot long.mp4 --labels "cooking,eating" --window 4 --output timeline.png
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
            "--temporal says what another project's --checkpoint does not: name that file": temporal
            and checkpoint is None,
        }
    )
    options.check_settings(checkpoint, overrides)
    if protocol is not None:
        find_protocol(protocol)
    files = VideoOptions(
        options.read_labels(labels) if labels is not None else None,
        window,
        stride,
        multi_label,
        threshold,
        top,
        output or [],
    )
    files.check(bool(videos), by)
    run_on(processes, device)
    folder = output[0] if output and not videos else None
    if folder is not None:
        refuse_existing(folder)
    asked = ZeroShotOptions(checkpoint, by, overrides, unreadable, max_failed, folder)
    with Display() as display:
        if videos:
            result = classify(videos, files, checkpoint, overrides, by, display)
            show = print_answers
        else:
            data, recipe = _load_data(asked, protocol, dataset, split, display)
            result, show = _evaluate(asked, data, recipe, display), _print_result
    (print_json if json else show)(result)
    if videos and not result.get("predictions", result.get("timelines")):
        raise VactkError(f"none of the files could be read; the first: {result['failed'][0]['error']}")


def _load_data(
    asked: ZeroShotOptions, protocol: str | None, dataset: str | None, split: str | None, display: Display
) -> tuple[ProtocolData, str]:
    """Find the videos of the protocol or split, and the name of the dataset's recipe."""
    from vactk.data.datasets import find_dataset
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
    from vactk.evaluate.setup import load_for_evaluation, prepare_model, strange_to_toy
    from vactk.evaluate.zero_shot import check_missing, score_protocol, summarize
    from vactk.recipes import read_recipe

    name = data.protocol.name
    for note in data.notes:
        display.message(f"{name}: {note}")
    check_missing(data.videos, asked.max_failed)
    model, config = load_for_evaluation(
        asked.checkpoint, asked.overrides, read_recipe(recipe), display.message
    )
    display.warning(strange_to_toy(model, data.videos.words))
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
