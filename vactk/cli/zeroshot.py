"""vactk zeroshot"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from vactk.cli import options
from vactk.cli.display import Display, display, percent, print_json, print_line, print_table
from vactk.cli.labels import read_labels
from vactk.cli.processes import run_on
from vactk.cli.protocols import describe_conditions, list_protocols, print_protocol
from vactk.config import nest
from vactk.errors import VactkError

if TYPE_CHECKING:
    from vactk.data.records import VideoSet
    from vactk.evaluate.config import EvalConfig
    from vactk.evaluate.scoring import Scores
    from vactk.models.video_model import VideoModel

SHOWN_LABELS = 3


class ZeroShotOptions(NamedTuple):
    """What the options ask for, before any model is loaded."""

    checkpoint: Path | None
    by: str
    overrides: dict[str, Any]  # of a recipe
    unreadable: Literal["wrong", "skip"]
    max_failed: float

    @property
    def data_root(self) -> Path | None:
        return Path(self.overrides["data_root"]) if "data_root" in self.overrides else None


def zeroshot(
    videos: Annotated[
        list[Path] | None, typer.Argument(help="Video files, or folders that are walked for files.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help='What the videos may show: "a,b,c", or a file with a label on each line.'),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="A published way of testing, such as hmdb51/ep2; `list` shows all.",
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
            help="What answers: similarity to the classes' words, or, for the classes of the training, "
            "class_head or the ensemble of both.",
            rich_help_panel=options.MODEL,
        ),
    ] = "similarity",
    templates: options.Templates = None,
    data_root: options.DataRoot = None,
    frames: options.Frames = None,
    views: options.Views = None,
    unreadable: Annotated[
        Literal["wrong", "skip"],
        typer.Option(
            help="What becomes of videos of a dataset that are missing or cannot be read: wrong (they count as "
            "wrong) or skip (the accuracy is of the others, and says so).",
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
    """Name what videos show, out of labels that the model need never have trained on.

    On files, with a probability for each label; on a dataset, with the accuracy. For example:

        vactk zeroshot clips/ --labels "juggling,arm wrestling,waving" --backbone toy
        vactk zeroshot --dataset shapes --split unseen --checkpoint runs/first
        vactk zeroshot --protocol hmdb51/ep2 --data-root /data --checkpoint runs/first
    """
    if protocol == "list":
        list_protocols(as_json=json)
        return
    if (bool(videos), bool(dataset), bool(protocol)).count(True) != 1:
        raise VactkError("give either videos with --labels, or a --dataset, or a --protocol")
    if videos and not labels and checkpoint is None:
        raise VactkError(
            "videos need --labels, or a --checkpoint that was trained on some: what may they show?"
        )
    contradictions = {
        "a dataset brings its own labels: leave out --labels": not videos and labels,
        "a protocol names its own splits: leave out --split": protocol and split,
        "a protocol is measured by similarity: leave out --by": protocol and by != "similarity",
        "--temporal says what another project's --checkpoint does not: name that file": temporal
        and checkpoint is None,
    }
    refuse(contradictions)
    run_on(processes, device)
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
    asked = ZeroShotOptions(checkpoint, by, nest(given), unreadable, max_failed)
    with display() as shown:
        if videos:
            result, show = _on_files(asked, videos, labels, shown), _print_predictions
        elif protocol:
            result, show = _on_protocol(asked, protocol, shown), _print_protocol
        else:
            result, show = _on_dataset(asked, str(dataset), split, shown), _print_accuracy
    (print_json if json else show)(result)
    if videos and not result["predictions"]:
        raise VactkError(f"none of the files could be read; the first: {result['failed'][0]['error']}")


def refuse(contradictions: Mapping[str, object]) -> None:
    """Raises VactkError with the first message whose condition holds."""
    for message, holds in contradictions.items():
        if holds:
            raise VactkError(message)


def _on_dataset(asked: ZeroShotOptions, name: str, split: str | None, shown: Display) -> dict[str, Any]:
    from vactk.data.datasets import find_dataset
    from vactk.evaluate.setup import load_for_evaluation
    from vactk.evaluate.zero_shot import check_missing, evaluate
    from vactk.recipes import read_recipe

    dataset = find_dataset(name)
    if not dataset.labelled:
        raise VactkError(f"'{name}' names no classes: give --labels and the videos, or a dataset with labels")
    split = split or dataset.test_split
    videos = dataset.load(split, root=asked.data_root, progress=shown.progress(f"{name}: videos"))
    for line in videos.report.lines() if videos.report else ():
        shown.message(f"{name}, {split}: {line}")
    if any(record.label is None for record in videos.records):
        raise VactkError(f"{name}, {split}, has no labels to measure with: choose another --split")
    check_missing(videos, asked.max_failed)
    model, config = load_for_evaluation(
        asked.checkpoint, asked.overrides, read_recipe(dataset.recipe), shown.message
    )
    scores = _score(model, videos, config, shown.progress(f"{name}: {split}"), asked.max_failed)
    _check_answer(asked.by, scores)
    evaluation = evaluate(videos, scores, unreadable=asked.unreadable)
    conditions = {"by": asked.by, "unreadable": asked.unreadable, **_conditions(asked, model, config)}
    return {**evaluation.to_json(asked.by), **conditions}


def _on_protocol(asked: ZeroShotOptions, name: str, shown: Display) -> dict[str, Any]:
    from vactk.data.datasets import find_dataset
    from vactk.evaluate.protocol import find_protocol
    from vactk.evaluate.protocol_splits import load_protocol_data
    from vactk.evaluate.setup import load_for_evaluation, prepare_model
    from vactk.evaluate.zero_shot import evaluate_protocol
    from vactk.recipes import read_recipe

    protocol = find_protocol(name)
    if protocol.task == "retrieval":
        raise VactkError(f"'{protocol.name}' is a retrieval protocol: `vactk retrieve` measures these")
    plan = load_protocol_data(protocol, asked.data_root)
    for note in plan.notes:
        shown.message(f"{protocol.name}: {note}")
    model, config = load_for_evaluation(
        asked.checkpoint,
        asked.overrides,
        read_recipe(find_dataset(protocol.dataset).recipe),
        shown.message,
    )
    accelerator = prepare_model(model, config)
    result = evaluate_protocol(
        model,
        plan,
        config.data,
        accelerator,
        templates=config.prompts,
        batch_size=config.batch_size,
        unreadable=asked.unreadable,
        max_failed=asked.max_failed,
        progress=shown.progress(protocol.name),
    )
    return {**result.to_json(), **_conditions(asked, model, config)}


def _conditions(asked: ZeroShotOptions, model: VideoModel, config: EvalConfig) -> dict[str, Any]:
    """What a number was measured with."""
    return {
        "frames": config.data.num_frames,
        "views": config.data.views,
        "crops": config.data.transform.eval_crops,
        "templates": config.templates,
        "model": str(asked.checkpoint or model.config.backbone.name),
    }


def _on_files(asked: ZeroShotOptions, paths: list[Path], given: str | None, shown: Display) -> dict[str, Any]:
    labels = read_labels(given) if given is not None else ()
    files = _walk(paths)

    from vactk.data.records import Record, VideoSet
    from vactk.evaluate.setup import load_for_evaluation
    from vactk.evaluate.zero_shot import as_json, note_lines
    from vactk.text.templates import as_words

    model, config = load_for_evaluation(asked.checkpoint, asked.overrides, {}, shown.message)
    labels = labels or model.heads.classes
    if not labels:
        raise VactkError(f"'{asked.checkpoint}' was not trained on classes: name some with --labels")
    videos = VideoSet(
        name="files",
        split="all",
        classes=labels,
        words=tuple(as_words(label) for label in labels),
        records=tuple(Record(video=file) for file in files),
    )
    scores = _score(model, videos, config, shown.progress("videos"))
    _check_answer(asked.by, scores)
    predictions = []
    for place, values in zip(scores.places.tolist(), scores.probabilities[asked.by], strict=True):
        ranked = sorted(zip(values.tolist(), labels, strict=True), key=lambda pair: -pair[0])
        found = [{"label": label, "probability": value} for value, label in ranked]
        predictions.append({"video": str(files[place]), "labels": found})
    return {
        "predictions": predictions,
        "failed": as_json(scores.failures),
        "partial": as_json(scores.partial),
        "notes": note_lines(scores.notes),
    }


def _score(
    model: VideoModel,
    videos: VideoSet,
    config: EvalConfig,
    progress: Callable[[int, int], None],
    max_failed: float = 1.0,
) -> Scores:
    from vactk.evaluate.setup import prepare_model
    from vactk.evaluate.zero_shot import score_classes

    accelerator = prepare_model(model, config)
    return score_classes(
        model,
        videos,
        config.data,
        accelerator,
        templates=config.prompts,
        batch_size=config.batch_size,
        max_failed=max_failed,
        progress=progress,
    )


def _check_answer(by: str, scores: Scores) -> None:
    if by not in scores.probabilities:
        raise VactkError(
            f"--by {by} needs a checkpoint with a class head for exactly these classes; "
            "--by similarity takes any"
        )


def _walk(paths: list[Path]) -> list[Path]:
    """The files, and every file under the folders that is not hidden, each once and in order of their names."""
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


def _print_protocol(result: dict[str, Any]) -> None:
    print_protocol(result)
    _print_problems(result)


def _print_accuracy(result: dict[str, Any]) -> None:
    row = [
        result["protocol"],
        str(result["num_videos"]),
        str(result["num_classes"]),
        percent(result["top1"]),
        percent(result["top5"]),
    ]
    title = f"Zero-shot accuracy of {result['model']}, %\n{describe_conditions(result)}, by {result['by']}"
    print_table(title, ("protocol", "videos", "classes", "top-1", "top-5"), [row])
    _print_problems(result)
    _print_notes(result)


def _print_predictions(result: dict[str, Any]) -> None:
    rows = []
    for prediction in result["predictions"]:
        best = prediction["labels"][:SHOWN_LABELS]
        rows.append(
            [prediction["video"], *(f"{item['label']} {100 * item['probability']:.1f}%" for item in best)]
        )
    places = [f"{number}." for number in range(1, 1 + max((len(row) - 1 for row in rows), default=0))]
    print_table("What the videos show", ("video", *places), rows)
    _print_problems(result)
    _print_notes(result)


def _print_notes(result: dict[str, Any]) -> None:
    for note in result["notes"]:
        print_line(note)


def _print_problems(result: dict[str, Any]) -> None:
    titles = {"failed": "Could not be read", "partial": "Could be read in part"}
    for key, title in titles.items():
        if result[key]:
            print_table(title, ("reason",), ([item["error"]] for item in result[key]))
