"""vactk interpolate"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vactk.cli import options
from vactk.cli.display import Display, is_main_process, percent, print_json, print_line, print_table
from vactk.errors import VactkError
from vactk.files.atomic import refuse_unwritable

if TYPE_CHECKING:
    from vactk.evaluate.interpolate import EvalSet, MergeFormula, MergeRun

MERGE, OUTPUT = "Merge", "Output"
MODES = ("--alpha", "--weights", "--soup", "--task-vector", "--sweep")
MAX_POINTS = 1000
SUFFIXES = (".safetensors", ".pt", ".pth", ".pyth", ".bin")


@dataclass(frozen=True)
class MergeOptions:
    """How to merge: exactly one field is set."""

    alpha: float | None = None
    weights: tuple[float, ...] | None = None  # sum to 1
    soup: str | None = None
    task_vector: float | None = None
    alphas: tuple[float, ...] | None = None  # of a sweep

    @property
    def interpolates(self) -> bool:
        return self.alpha is not None or self.alphas is not None

    @property
    def evaluates(self) -> bool:
        return self.alphas is not None or self.soup == "greedy"


def interpolate(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            help="A and B, or more: checkpoints, run folders, folders of them, or weights of a plain CLIP. "
            "With one alone, A is the original CLIP that it started from."
        ),
    ],
    alpha: Annotated[
        float | None,
        typer.Option(
            help="(1 - alpha) A + alpha B: 0 is A, 1 is B; values outside 0 to 1 extrapolate.",
            show_default="none: one of these five says how to merge",
            rich_help_panel=MERGE,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weight of each checkpoint, such as 1,1,2; normalized to sum to 1.",
            show_default="none",
            rich_help_panel=MERGE,
        ),
    ] = None,
    soup: Annotated[
        Literal["uniform", "greedy"] | None,
        typer.Option(
            help="uniform: mean of all; greedy: mean of those that improve accuracy on --dataset.",
            show_default="none",
            rich_help_panel=MERGE,
        ),
    ] = None,
    task_vector: Annotated[
        float | None,
        typer.Option(
            help="Scale x of A + x (B - C), for three checkpoints.",
            show_default="none",
            rich_help_panel=MERGE,
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            help="Evaluate alphas START:STOP:STEP, such as 0:1:0.1, on --dataset.",
            show_default="none",
            rich_help_panel=MERGE,
        ),
    ] = None,
    alpha_of: Annotated[
        list[str] | None,
        typer.Option(
            help="Alpha of a part of the model, such as vision=0.3, text.0-5=0 or 'clip.*.attn.*=1'; the last "
            "match wins; repeatable.",
            show_default="that of --alpha or --sweep",
            rich_help_panel=MERGE,
        ),
    ] = None,
    drop_heads: Annotated[
        bool, typer.Option("--drop-heads", help="Leave out class and word heads.", rich_help_panel=MERGE)
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="File to write, of a sweep the best merge.",
            show_default="a new interpolated.safetensors here; of a sweep none",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    curve: Annotated[
        Path | None,
        typer.Option(
            help="Path of a sweep's curve, without suffix.", show_default="sweep", rich_help_panel=OUTPUT
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Dataset to evaluate on, NAME or NAME/SPLIT; repeatable.",
            show_default="none",
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
    """Merge the weights of checkpoints: (1 - alpha) A + alpha B, averages, soups, task vectors, sweeps of alpha.

    Parameters that a checkpoint lacks have their values in the original CLIP. For example:

        vactk interpolate a.safetensors b.safetensors --alpha 0.5
        vactk interpolate runs/first --sweep 0:1:0.1 --dataset shapes
    """
    overrides = options.read_settings(interpolate, locals())
    merge = read_merge_options(alpha, weights, soup, task_vector, sweep)
    parts = read_alpha_of(alpha_of or [])
    options.refuse({
        "--alpha-of requires --alpha or --sweep": parts and not merge.interpolates,
        "--sweep and --soup greedy require --dataset": merge.evaluates and not dataset,
        "--dataset requires --sweep or --soup greedy": dataset and not merge.evaluates,
    })  # fmt: skip
    files = find_files(checkpoints)
    with_original = len(files) == 1 and merge.interpolates
    check_count(files, merge, with_original=with_original)
    refuse_same(files, merge)
    target = choose_output(output, files)
    refuse_unwritable({"--output": output, "--curve": curve})
    options.check_settings(None, overrides)

    from vactk.evaluate.interpolate import EvalSet, open_merge

    with Display() as display:
        sets = [EvalSet(name, split) for name in dict.fromkeys(dataset or [])]
        run = open_merge(
            files, overrides, display, with_original=with_original, heads=not drop_heads, alpha_of=parts,
            is_writer=is_main_process(),
        )  # fmt: skip
        _warn(run, merge, [*(merge.alphas or ()), *parts.values()])
        if merge.alphas is not None:
            best = target if output else None
            result = run.sweep(merge.alphas, sets, curve or Path("sweep"), best)
        else:
            result = run.save(target, _formula(run, merge, sets))
    (print_json if json else _print)(result)


def read_merge_options(
    alpha: float | None, weights: str | None, soup: str | None, task_vector: float | None, sweep: str | None
) -> MergeOptions:
    """Read the options. Raises VactkError unless exactly one is given, and is valid."""
    given = [mode for mode, value in zip(MODES, (alpha, weights, soup, task_vector, sweep), strict=True)
             if value is not None]  # fmt: skip
    if len(given) != 1:
        raise VactkError(f"give exactly one of {', '.join(MODES)}; got {' and '.join(given) or 'none'}")
    for name, value in (("--alpha", alpha), ("--task-vector", task_vector)):
        if value is not None and not math.isfinite(value):
            raise VactkError(f"{name} must be a finite number, got {value}")
    return MergeOptions(
        alpha=alpha,
        weights=None if weights is None else _read_weights(weights),
        soup=soup,
        task_vector=task_vector,
        alphas=None if sweep is None else read_sweep(sweep),
    )


def read_sweep(text: str) -> tuple[float, ...]:
    """Parse "0:1:0.1" into the alphas from 0 to 1, both included. Raises VactkError if it is malformed."""
    example = "give it as START:STOP:STEP, such as 0:1:0.1"
    try:
        start, stop, step = (float(part) for part in text.split(":"))
    except ValueError:
        raise VactkError(f"cannot read --sweep '{text}'; {example}") from None
    if not all(math.isfinite(value) for value in (start, stop, step)) or step <= 0 or stop < start:
        raise VactkError(
            f"--sweep '{text}' is empty: STOP must be at least START, and STEP above 0; {example}"
        )
    count = math.floor((stop - start) / step + 1e-6) + 1
    if count > MAX_POINTS:
        raise VactkError(f"--sweep '{text}' has {count} points, more than {MAX_POINTS}")
    return tuple(round(start + i * step, 10) for i in range(count))


def read_alpha_of(items: list[str]) -> dict[str, float]:
    """Parse ["vision=0.3"] into {"vision": 0.3}. Raises VactkError if one is malformed."""
    chosen = {}
    for item in items:
        part, _, value = item.partition("=")
        try:
            chosen[part] = float(value)
        except ValueError:
            raise VactkError(f"--alpha-of is given as PART=ALPHA, such as vision=0.3; got '{item}'") from None
        if not part or not math.isfinite(chosen[part]):
            raise VactkError(f"--alpha-of is given as PART=ALPHA, such as vision=0.3; got '{item}'")
    return chosen


def _read_weights(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise VactkError(f"--weights are numbers separated by commas, such as 1,1,2; got '{text}'") from None
    total = sum(values)
    if not math.isfinite(total) or total == 0:
        raise VactkError(f"--weights must not sum to 0; got '{text}'")
    return tuple(value / total for value in values)


def find_files(paths: list[Path]) -> list[Path]:
    """Return the files and run folders, with other folders replaced by the checkpoints in them.

    Raises VactkError for a path that does not exist, and for a folder without checkpoints.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir() and not _is_checkpoint_folder(path):
            inside = sorted(item for item in path.iterdir() if item.suffix in SUFFIXES and item.is_file())
            inside += sorted(item for item in path.iterdir() if _is_checkpoint_folder(item))
            if not inside:
                raise VactkError(f"there are no checkpoints in '{path}'")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise VactkError(f"there is no file '{path}'")
    return found


def refuse_same(files: list[Path], merge: MergeOptions) -> None:
    """Raises VactkError if two files are the same, except in A + x (B - A)."""
    for i, one in enumerate(files):
        for j, two in enumerate(files[:i]):
            if _file(one).samefile(_file(two)) and not (merge.task_vector is not None and (j, i) == (0, 2)):
                raise VactkError(
                    f"'{two}' and '{one}' are the same file: merging it with itself changes nothing"
                )


def check_count(files: list[Path], merge: MergeOptions, *, with_original: bool) -> None:
    """Raises VactkError if the merge takes another number of checkpoints."""
    count = len(files)
    if (merge.alpha is not None or merge.alphas is not None) and count + with_original != 2:
        raise VactkError(
            f"(1 - alpha) A + alpha B takes two checkpoints, or one and its original; got {count}"
        )
    if merge.task_vector is not None and count != 3:
        raise VactkError(f"A + x (B - C) takes three checkpoints, got {count}")
    if merge.weights is not None and len(merge.weights) != count:
        raise VactkError(f"got {len(merge.weights)} weights for {count} checkpoints")
    if count + with_original < 2:
        raise VactkError(f"merging takes at least two checkpoints, got {count}")


def choose_output(output: Path | None, files: list[Path]) -> Path:
    """Return `output`, or the first of interpolated.safetensors, interpolated-2, ... that does not exist.

    Raises VactkError if `output` exists or does not end in .safetensors.
    """
    if output is None:
        from vactk.evaluate.interpolate import next_free

        return next_free(Path("interpolated.safetensors"))
    if output.suffix != ".safetensors":
        raise VactkError(f"--output must end in .safetensors, got '{output}'")
    if output.exists():
        is_input = any(_file(file).samefile(output) for file in files)
        raise VactkError(
            f"--output '{output}' is one of the inputs; choose another" if is_input
            else f"--output '{output}' exists; choose another, or delete it first"
        )  # fmt: skip
    return output


def _file(path: Path) -> Path:
    own = path / "model.safetensors"
    return own if own.is_file() else path


def _is_checkpoint_folder(path: Path) -> bool:
    """Whether `path` is a run folder, or a folder of open_clip's or Hugging Face's."""
    from vactk.weights.hub_folder import is_weights_folder

    return (path / "model.safetensors").is_file() or is_weights_folder(path)


def _formula(run: MergeRun, merge: MergeOptions, sets: Sequence[EvalSet]) -> MergeFormula:
    if merge.alpha is not None:
        return run.interpolation(merge.alpha)
    if merge.weights is not None:
        return run.weighted_mean(merge.weights)
    if merge.task_vector is not None:
        return run.task_vector(merge.task_vector)
    return run.uniform_soup() if merge.soup == "uniform" else run.greedy_soup(sets)


def _warn(run: MergeRun, merge: MergeOptions, alphas: Sequence[float]) -> None:
    outside = [alpha for alpha in (merge.alpha, *alphas) if alpha is not None and not 0 <= alpha <= 1]
    if outside:
        run.note(f"warning: alpha {outside[0]:g} is outside 0 to 1, this extrapolates")
    hashes = [one.sha256 for one in run.inputs]
    if len(set(hashes)) < len(hashes) and merge.task_vector is None:
        run.note("warning: two of the checkpoints have the same content")


def _print(result: dict[str, Any]) -> None:
    if "points" not in result:
        for tried in result.get("soup", ()):
            kept = "kept" if tried["kept"] else "left out"
            print_line(
                f"{tried['path']}: {percent(tried['alone'])} alone, {percent(tried['soup'])} with it, {kept}"
            )
        for number, parent in enumerate(result["parents"]):
            letter = string.ascii_uppercase[number : number + 1] or str(number + 1)
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
