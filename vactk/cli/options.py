"""Options shared by several commands, and the settings that they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import typer

from vactk.config import nest, parse_yaml
from vactk.errors import VactkError
from vactk.files.text import read_text
from vactk.text.templates import choose_templates

DATA, MODEL, RUN = "Data", "Model", "Run"
STORED = "as in the recipe, or as trained"
FILE_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".list", ".names")  # of label files, never of labels


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
        show_default="none",
        rich_help_panel=DATA,
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the dataset's files; shapes is generated there.",
        show_default="where VACTK_DATA or the configuration file says; shapes in the cache",
        rich_help_panel=DATA,
    ),
    Setting("data_root"),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Split of the dataset.",
        show_default="its test split, for retrieval the one made for it",
        rich_help_panel=DATA,
    ),
]
Shots = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Train on this many videos per class, sampled with --seed; 0: all.",
        show_default="the recipe's",
        rich_help_panel=DATA,
    ),
    Setting("shots"),
]
Descriptions = Annotated[
    Path | None,
    typer.Option(
        help='Descriptions to align the training videos with: JSON lines {"video": PATH, "descriptions": '
        "[TEXT, ...]}, a CSV with columns video and description, or a .pt with a dictionary of texts.",
        show_default="none",
        rich_help_panel=DATA,
    ),
    Setting("descriptions"),
]
Frames = Annotated[
    int | None,
    typer.Option(min=1, help="Frames per view.", show_default=STORED, rich_help_panel=DATA),
    Setting("data.num_frames"),
]
Views = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Temporal views per video in evaluation.",
        show_default=STORED,
        rich_help_panel=DATA,
    ),
    Setting("data.views"),
]
Unreadable = Annotated[
    Literal["wrong", "skip"],
    typer.Option(
        help="Missing and unreadable videos of a dataset: count as wrong, in retrieval as ranked last, or skip "
        "(the result is over the others, and says so).",
        rich_help_panel=DATA,
    ),
]
MaxFailed = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Share of such videos, from 0 to 1, above which to stop.", rich_help_panel=DATA
    ),
]
Decoder = Annotated[
    Literal["auto", "decord", "pyav"] | None,
    typer.Option(help="Video decoder.", show_default="auto", rich_help_panel=DATA),
    Setting("data.decoder"),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=-1,
        help="Data-loading worker processes; -1: chosen from the CPU count.",
        show_default="-1",
        rich_help_panel=DATA,
    ),
    Setting("data.workers"),
]
Templates = Annotated[
    str | None,
    typer.Option(
        help="Prompt templates for class names: plain, object, photo, video, openvclip, froster, or a sentence "
        "with {}.",
        show_default=STORED,
        rich_help_panel=MODEL,
    ),
    Setting("templates"),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="A vactk checkpoint, a run folder, another project's checkpoint, or a plain CLIP's file or folder.",
        show_default="none: the --backbone as it is",
        rich_help_panel=MODEL,
    ),
]
Temporal = Annotated[
    str | None,
    typer.Option(
        help="Temporal module of another project's checkpoint, such as '{name: neighbour_attention, window: 2}'.",
        show_default="as that project published it",
        rich_help_panel=MODEL,
    ),
    Setting("model.temporal", _parse_temporal),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        help="Image CLIP: an open_clip model name such as ViT-B-16, a weights file in OpenAI's layout, a folder, "
        "or toy, which comes with vactk and knows drawn shapes only.",
        show_default="the recipe's or the checkpoint's, else ViT-B-16",
        rich_help_panel=MODEL,
    ),
    Setting("model.backbone.name"),
]
Pretrained = Annotated[
    str | None,
    typer.Option(
        help="Pretrained weights of the backbone: an open_clip tag, a file, or none.",
        show_default="the backbone's usual ones, OpenAI's where there are",
        rich_help_panel=MODEL,
    ),
    Setting("model.backbone.pretrained"),
]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Batch size, in videos.", show_default=STORED, rich_help_panel=RUN),
    Setting("run.eval_batch_size"),
]
Device = Annotated[
    Literal["auto", "cpu"] | None,
    typer.Option(help="auto: a GPU if there is one, else the CPU.", show_default="auto", rich_help_panel=RUN),
    Setting("run.device"),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"] | None,
    typer.Option(
        help="Number format; auto: bf16 on a GPU that has it, else fp32.",
        show_default=STORED,
        rich_help_panel=RUN,
    ),
    Setting("run.precision"),
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of processes to launch on this machine; with GPUs, one per GPU.",
        show_default="1",
        rich_help_panel=RUN,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=RUN)]


def read_labels(text: str) -> tuple[str, ...]:
    """Read labels from "a,b,c", or a file's lines. Raises VactkError unless there are several, all different."""
    path, example = (
        Path(text),
        "name at least two, such as --labels 'running,jumping', or a file with one per line",
    )
    if _is_file(text):
        labels = [line.strip() for line in read_text(path).splitlines()]
    else:
        labels = [part.strip() for part in text.split(",")]
        if len(labels) == 1 and (path.suffix.lower() in FILE_SUFFIXES or len(path.parts) > 1):
            raise VactkError(f"--labels: there is no file '{text}'; {example}")
    if not any(labels):
        raise VactkError(f"--labels '{text}' is empty: {example}")
    if not all(labels):
        raise VactkError(f"--labels '{text}' holds an empty label: leave it out, or name it")
    if len(labels) == 1:
        raise VactkError(f"--labels holds '{labels[0]}' alone, which every video would get: {example}")
    seen: dict[str, str] = {}
    for label in labels:
        if other := seen.get(label.lower()):
            same = "twice" if label == other else f"and '{other}', which differ by case only"
            raise VactkError(f"--labels holds '{label}' {same}: leave one out")
        seen[label.lower()] = label
    return tuple(labels)


def check_settings(checkpoint: Path | None, overrides: Mapping[str, Any]) -> None:
    """Raises VactkError for a checkpoint that is absent and settings that are wrong, before anything is loaded."""
    if checkpoint is not None and not checkpoint.exists():
        raise VactkError(
            f"there is no checkpoint '{checkpoint}': name a file, or a run folder with model.safetensors"
        )
    if "templates" in overrides:
        choose_templates(overrides["templates"])

    from vactk.evaluate.config import eval_config

    eval_config(overrides)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a path: many labels
        return False
