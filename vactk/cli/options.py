"""Options shared by several commands, and the settings that they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

from vactk.config import nest, parse_yaml
from vactk.errors import VactkError

DATA, MODEL, RUN = "Data", "Model", "Run"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _parse_temporal(text: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise VactkError(f"cannot read the value of --temporal, '{text}'") from error


class Setting(NamedTuple):
    """Annotates an option with the recipe key that it sets; `read` turns its value into the setting's."""

    key: str
    read: Callable[[Any], Any] = _plain


def read_settings(command: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a command's options give, nested; options that are None are left out.

    `given` holds the options' values by their names in `command`: its `locals()`. Of several `Setting`s of one
    option the last counts.
    """
    chosen = {}
    for name, hint in get_type_hints(command, include_extras=True).items():
        found = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Setting)]
        if found and given[name] is not None:
            chosen[found[-1].key] = found[-1].read(given[name])
    return nest(chosen)


def refuse(contradictions: Mapping[str, object]) -> None:
    """Raises VactkError with the first message whose condition holds."""
    for message, holds in contradictions.items():
        if holds:
            raise VactkError(message)


Dataset = Annotated[
    str | None,
    typer.Option(
        help="Dataset name, such as shapes or hmdb51; a folder with one subfolder per class; or a list of paths "
        "and labels or captions.",
        rich_help_panel=DATA,
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder of the dataset's files; shapes is generated there.", rich_help_panel=DATA),
    Setting("data_root"),
]
Split = Annotated[str | None, typer.Option(help="Split of the dataset.", rich_help_panel=DATA)]
Shots = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Train on this many videos per class, sampled with --seed; 0: all.",
        rich_help_panel=DATA,
    ),
    Setting("shots"),
]
Descriptions = Annotated[
    Path | None,
    typer.Option(
        help='Descriptions to align the training videos with: JSON lines {"video": PATH, "descriptions": '
        "[TEXT, ...]}, a CSV with columns video and description, or a .pt with a dictionary of texts.",
        rich_help_panel=DATA,
    ),
    Setting("descriptions"),
]
Frames = Annotated[
    int | None,
    typer.Option(min=1, help="Frames per view.", rich_help_panel=DATA),
    Setting("data.num_frames"),
]
Views = Annotated[
    int | None,
    typer.Option(min=1, help="Temporal views per video in evaluation.", rich_help_panel=DATA),
    Setting("data.views"),
]
Decoder = Annotated[
    str | None,
    typer.Option(help="Video decoder: auto, decord or pyav.", rich_help_panel=DATA),
    Setting("data.decoder"),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=-1,
        help="Data-loading worker processes; -1: chosen from the CPU count.",
        rich_help_panel=DATA,
    ),
    Setting("data.workers"),
]
Templates = Annotated[
    str | None,
    typer.Option(
        help="Prompt templates for class names: plain, object, photo, video, openvclip, froster, or a sentence "
        "with {}.",
        rich_help_panel=MODEL,
    ),
    Setting("templates"),
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
        help="Temporal module of another project's checkpoint, such as '{name: neighbour_attention, window: 2}'.",
        rich_help_panel=MODEL,
    ),
    Setting("model.temporal", _parse_temporal),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        help="open_clip model name, toy, a weights file in OpenAI's layout, or a folder.",
        rich_help_panel=MODEL,
    ),
    Setting("model.backbone.name"),
]
Pretrained = Annotated[
    str | None,
    typer.Option(
        help="Pretrained weights of the backbone: an open_clip tag, a file, or none.", rich_help_panel=MODEL
    ),
    Setting("model.backbone.pretrained"),
]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Batch size, in videos.", rich_help_panel=RUN),
    Setting("run.eval_batch_size"),
]
Device = Annotated[str | None, typer.Option(help="auto or cpu.", rich_help_panel=RUN), Setting("run.device")]
Precision = Annotated[
    str | None,
    typer.Option(help="auto, fp32, bf16 or fp16.", rich_help_panel=RUN),
    Setting("run.precision"),
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of processes to launch on this machine; with GPUs, one per GPU.",
        rich_help_panel=RUN,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=RUN)]


def read_labels(text: str) -> tuple[str, ...]:
    """Read labels from "a,b,c", or from the lines of a file."""
    parts = Path(text).read_text(encoding="utf-8").splitlines() if _is_file(text) else text.split(",")
    labels = [part.strip() for part in parts]
    if not any(labels):
        raise VactkError(
            "--labels is empty: name what the videos may show, such as --labels 'running,jumping'"
        )
    if not all(labels):
        raise VactkError(f"--labels holds an empty label: '{text}'")
    seen: set[str] = set()
    for label in labels:
        if label.lower() in seen:
            raise VactkError(f"--labels holds '{label}' twice")
        seen.add(label.lower())
    return tuple(labels)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a path: many labels
        return False
