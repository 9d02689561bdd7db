"""Options that mean the same in every command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vactk.config import parse_yaml
from vactk.errors import VactkError

DATA, MODEL, RUN = "Data", "Model", "Run"

Dataset = Annotated[
    str | None,
    typer.Option(
        help="A dataset that vactk knows, such as shapes or hmdb51; a folder with a folder for each class; or a "
        "list of paths and labels.",
        rich_help_panel=DATA,
    ),
]
DataRoot = Annotated[
    Path | None, typer.Option(help="Where the dataset's files are, or are made.", rich_help_panel=DATA)
]
Split = Annotated[str | None, typer.Option(help="The part of the dataset.", rich_help_panel=DATA)]
Shots = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Train on so many videos of each class, drawn by --seed; 0: all.",
        rich_help_panel=DATA,
    ),
]
Descriptions = Annotated[
    Path | None,
    typer.Option(
        help='Texts to align the training videos with: lines {"video": PATH, "descriptions": [TEXT, ...]}, a CSV '
        "with columns video and description, or a .pt with a dictionary of texts.",
        rich_help_panel=DATA,
    ),
]
Frames = Annotated[int | None, typer.Option(min=1, help="Frames of a view.", rich_help_panel=DATA)]
Views = Annotated[
    int | None, typer.Option(min=1, help="Temporal views of a video in testing.", rich_help_panel=DATA)
]
Decoder = Annotated[str | None, typer.Option(help="auto, decord or pyav.", rich_help_panel=DATA)]
Workers = Annotated[
    int | None,
    typer.Option(min=-1, help="Processes that read videos; -1: as the machine has.", rich_help_panel=DATA),
]
Templates = Annotated[
    str | None,
    typer.Option(
        help="Sentences around class names: plain, object, photo, video, openvclip, froster, or one with {}.",
        rich_help_panel=MODEL,
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="A vactk checkpoint, a run folder, another project's checkpoint, or a plain CLIP's file or folder.",
        rich_help_panel=MODEL,
    ),
]
Temporal = Annotated[
    str | None,
    typer.Option(
        help="Temporal module of another project's file, such as '{name: neighbour_attention, window: 2}'.",
        rich_help_panel=MODEL,
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        help="An open_clip name, toy, a weights file in OpenAI's layout, or a folder.", rich_help_panel=MODEL
    ),
]
Pretrained = Annotated[
    str | None,
    typer.Option(help="The backbone's weights: a tag of open_clip, a file, or none.", rich_help_panel=MODEL),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Videos at a time.", rich_help_panel=RUN)]
Device = Annotated[str | None, typer.Option(help="auto or cpu.", rich_help_panel=RUN)]
Precision = Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.", rich_help_panel=RUN)]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Work on so many processes of this machine: with GPUs, one for each.",
        rich_help_panel=RUN,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=RUN)]


def read_yaml_value(option: str, text: str | None) -> Any:
    """The value of an option that takes a name, or settings as `{name: ..., key: value}`; None where not given."""
    if text is None:
        return None
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise VactkError(f"cannot read the value of {option}, '{text}'") from error
