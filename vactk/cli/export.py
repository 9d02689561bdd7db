"""vactk export"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vactk.cli import options
from vactk.cli.display import Display, percent, print_json, print_line, print_table
from vactk.errors import VactkError
from vactk.files.atomic import refuse_existing, refuse_unwritable

if TYPE_CHECKING:
    from vactk.evaluate.config import EvalConfig
    from vactk.models.video_model import VideoModel

FORMAT, CHECK = "Format", "Check"
PRECISIONS = {"fp32": "float32", "fp16": "float16"}


def export(
    checkpoint: options.Checkpoint = None,
    temporal: options.Temporal = None,
    backbone: options.Backbone = None,
    pretrained: options.Pretrained = None,
    by: Annotated[
        Literal["similarity", "class_head", "ensemble"],
        typer.Option(
            help="How the classifier answers: by similarity to the classes' words or, for the classes of the "
            "training, by class_head or the ensemble of both.",
            rich_help_panel=options.MODEL,
        ),
    ] = "similarity",
    templates: options.Templates = None,
    frames: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Frames per view; a file takes any number unless --static-frames.",
            show_default=options.STORED,
            rich_help_panel=options.MODEL,
        ),
        options.Setting("data.num_frames"),
    ] = None,
    views: options.Views = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help='Classes of the classifier: "a,b,c", or a file with one label per line.',
            show_default="those of --dataset, or of the checkpoint's training",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The folder to make; required.", rich_help_panel=FORMAT),
    ] = None,
    format: Annotated[
        Literal["onnx", "pt2", "torchscript", "open_clip", "huggingface"],
        typer.Option(
            help="onnx, pt2 (torch.export) and torchscript are programs; open_clip and huggingface are weights.",
            rich_help_panel=FORMAT,
        ),
    ] = "onnx",
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="Part of the model to write: video, text or classifier; repeatable.",
            show_default="all there are",
            rich_help_panel=FORMAT,
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16"],
        typer.Option(help="Number format of the weights; fp16 is for ONNX.", rich_help_panel=FORMAT),
    ] = "fp32",
    quantize: Annotated[
        Literal["int8"] | None,
        typer.Option(
            help="ONNX with weights of 8 bits, for CPUs; what accuracy that costs is measured on --dataset.",
            show_default="no",
            rich_help_panel=FORMAT,
        ),
    ] = None,
    opset: Annotated[int, typer.Option(min=18, max=23, help="ONNX's version.", rich_help_panel=FORMAT)] = 18,
    static_frames: Annotated[
        bool,
        typer.Option(
            "--static-frames",
            help="Take exactly --frames frames, for runtimes that need to know it.",
            rich_help_panel=FORMAT,
        ),
    ] = False,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            help="A result of `vactk zeroshot --json` for the model card of huggingface; repeatable.",
            show_default="those of a run folder",
            rich_help_panel=FORMAT,
        ),
    ] = None,
    video: Annotated[
        list[Path] | None,
        typer.Option(
            help="A video file to check on; repeatable.",
            show_default="two clips of --dataset",
            rich_help_panel=CHECK,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="What to check on, and whose classes to take.",
            show_default="clips of shapes, for the check alone",
            rich_help_panel=CHECK,
        ),
    ] = None,
    split: options.Split = None,
    data_root: options.DataRoot = None,
    measure: Annotated[
        int,
        typer.Option(
            min=0,
            help="Videos of --dataset on which --quantize measures its loss, spread evenly; 0: all.",
            rich_help_panel=CHECK,
        ),
    ] = 96,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest difference to the model that passes, relative to an output's largest value where that "
            "is above 1.",
            show_default="1e-4; 0.02 for fp16, 0.25 for int8",
            rich_help_panel=CHECK,
        ),
    ] = None,
    decoder: options.Decoder = None,
    json: options.Json = False,
) -> None:
    """Write a model for other programs, and check every file against it.

    ONNX, torch.export and TorchScript hold a video encoder, a text encoder and, where the classes are
    known, a whole classifier; open_clip and huggingface are the weights. For example:

        vactk export --checkpoint runs/first --format onnx --output exported
        vactk export --checkpoint runs/first --labels "star growing,star moving left" --output exported
        vactk export --backbone ViT-B-16 --format open_clip --output plain
    """
    contradictions = {
        "what to export? name a --checkpoint, or a --backbone": checkpoint is None and backbone is None,
        "where to? name a folder with --output": output is None,
        "--quantize int8 is a precision of its own: leave out --precision": quantize and precision != "fp32",
        "--temporal says what another project's --checkpoint does not: name that file": temporal
        and checkpoint is None,
        "--split is a part of a --dataset: name one": split and dataset is None,
        "--results go into the model card of --format huggingface": results and format != "huggingface",
        "--by is for the classifier: leave out --by, or --part": by != "similarity"
        and part
        and "classifier" not in part,
    }
    options.refuse(contradictions)
    assert output is not None
    overrides = options.read_settings(export, locals())
    names = None if labels is None else options.read_labels(labels)
    refuse_existing(output)
    refuse_unwritable({"--output": output})
    for file in (*(video or ()), *(results or ())):
        if not file.is_file():
            raise VactkError(f"there is no file '{file}'")
    options.check_settings(checkpoint, overrides)

    from vactk.evaluate.setup import load_for_evaluation
    from vactk.export.formats import ExportConfig
    from vactk.export.run import ExportOptions, run_export

    with Display() as display:

        def load() -> tuple[VideoModel, EvalConfig]:
            return load_for_evaluation(checkpoint, overrides, {}, display.message)

        wanted = ExportOptions(
            config=ExportConfig(
                format=format,
                parts=tuple(part or ()),
                precision=quantize or PRECISIONS[precision],
                opset=opset,
                static_frames=static_frames,
                tolerance=tolerance,
            ),
            output=output,
            checkpoint=checkpoint,
            labels=names,
            answer=by,
            results=tuple(results or ()),
            videos=tuple(video or ()),
            dataset=dataset,
            split=split,
            data_root=data_root,
            num_measured=measure,
        )
        result = run_export(wanted, load, display)
    if json:
        print_json(result)
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    rows = []
    for file in result["files"]:
        differences = file["differences"]
        rows.append(
            [
                Path(file["path"]).name,
                file["precision"],
                str(file["frames"] or "-"),
                f"{file['bytes'] / 1e6:.1f}",
                *(f"{differences[kind]:.1e}" if kind in differences else "-" for kind in ("random", "real")),
                f"{file['tolerance']:g}",
            ]
        )
    opset = result["files"][0]["opset"]
    title = f"{result['output']}: largest difference to the model, on random and real inputs"
    columns = ("file", "precision", "frames", "MB", "random", "real", "tolerance")
    print_table(title, columns, rows)
    if opset:
        print_line(f"ONNX opset {opset}")
    if "accuracy" in result:
        _print_accuracy(result["accuracy"])
    for note in result["notes"]:
        print_line(note)


def _print_accuracy(accuracy: dict[str, Any]) -> None:
    top1 = accuracy["top1"]
    what = f"{accuracy['dataset']}, {accuracy['split']}: {accuracy['num_videos']} videos"
    row = [what, *(percent(top1[key]) for key in ("float32", "int8", "loss")), percent(accuracy["agreement"])]
    print_table("Top-1 by similarity, %", ("measured on", "float32", "int8", "loss", "same answer"), [row])
