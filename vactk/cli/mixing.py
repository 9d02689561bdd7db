"""What `vactk interpolate` is asked for, checked before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from vactk.errors import VactkError, pick

MODES = ("--alpha", "--weights", "--soup", "--task-vector", "--sweep")
SOUPS = {"uniform": "uniform", "greedy": "greedy"}
MAX_POINTS = 1000
SUFFIXES = (".safetensors", ".pt", ".pth", ".pyth", ".bin")


@dataclass(frozen=True)
class MergeOptions:
    """One way to mix: exactly one of its fields is set."""

    alpha: float | None = None
    weights: tuple[float, ...] | None = None  # they sum to 1
    soup: str | None = None
    task_vector: float | None = None
    alphas: tuple[float, ...] | None = None  # of a sweep


def read_merge_options(
    alpha: float | None, weights: str | None, soup: str | None, task_vector: float | None, sweep: str | None
) -> MergeOptions:
    """The options as a Mix. Raises VactkError unless exactly one is given, and it makes sense."""
    given = [mode for mode, value in zip(MODES, (alpha, weights, soup, task_vector, sweep), strict=True)
             if value is not None]  # fmt: skip
    if len(given) != 1:
        said = f"got {' and '.join(given)}" if given else "got none"
        raise VactkError(f"say how to mix by one of {', '.join(MODES)}; {said}")
    for name, value in (("--alpha", alpha), ("--task-vector", task_vector)):
        if value is not None and not math.isfinite(value):
            raise VactkError(f"{name} must be a number, got {value}")
    return MergeOptions(
        alpha=alpha,
        weights=None if weights is None else _read_weights(weights),
        soup=None if soup is None else pick(SOUPS, soup, "kind of soup"),
        task_vector=task_vector,
        alphas=None if sweep is None else read_sweep(sweep),
    )


def read_sweep(text: str) -> tuple[float, ...]:
    """ "0:1:0.1" as the alphas from 0 to 1, both among them. Raises VactkError when it is malformed."""
    example = "give it as START:STOP:STEP, such as 0:1:0.1"
    try:
        start, stop, step = (float(part) for part in text.split(":"))
    except ValueError:
        raise VactkError(f"cannot read --sweep '{text}'; {example}") from None
    if not all(math.isfinite(value) for value in (start, stop, step)) or step <= 0 or stop < start:
        raise VactkError(
            f"--sweep '{text}' goes nowhere: STOP must not be below START, STEP above 0; {example}"
        )
    count = math.floor((stop - start) / step + 1e-6) + 1
    if count > MAX_POINTS:
        raise VactkError(f"--sweep '{text}' has {count} points, more than {MAX_POINTS}")
    return tuple(round(start + i * step, 10) for i in range(count))


def read_alpha_of(items: list[str]) -> dict[str, float]:
    """["vision=0.3"] as {"vision": 0.3}. Raises VactkError when one is malformed."""
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
        raise VactkError(f"--weights are numbers with commas between, such as 1,1,2; got '{text}'") from None
    total = sum(values)
    if not math.isfinite(total) or total == 0:
        raise VactkError(f"--weights must have a sum other than 0, as they are divided by it; got '{text}'")
    return tuple(value / total for value in values)


def find_files(paths: list[Path]) -> list[Path]:
    """The checkpoints: files, run folders, and all checkpoints of other folders, each of them once.

    Raises VactkError for what is not there, folders without any, and files that are the same.
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


def refuse_same(files: list[Path], mix: MergeOptions) -> None:
    """Raises VactkError when two files are the same; A + x (B - A) is fine."""
    for i, one in enumerate(files):
        for j, two in enumerate(files[:i]):
            if _file(one).samefile(_file(two)) and not (mix.task_vector is not None and (j, i) == (0, 2)):
                raise VactkError(
                    f"'{two}' and '{one}' are the same file: mixing it with itself changes nothing"
                )


def check_count(files: list[Path], mix: MergeOptions, *, with_original: bool) -> None:
    """Raises VactkError when the way to mix asks for another number of files."""
    count = len(files)
    if (mix.alpha is not None or mix.alphas is not None) and count + with_original != 2:
        raise VactkError(
            f"(1 - alpha) A + alpha B takes two checkpoints, or one and its original; got {count}"
        )
    if mix.task_vector is not None and count != 3:
        raise VactkError(f"A + x (B - C) takes three checkpoints, got {count}")
    if mix.weights is not None and len(mix.weights) != count:
        raise VactkError(f"there are {len(mix.weights)} weights for {count} checkpoints")
    if count + with_original < 2:
        raise VactkError(f"mixing takes at least two checkpoints, got {count}")


def choose_output(output: Path | None, files: list[Path]) -> Path:
    """Where the result goes: `output`, or the first of interpolated.safetensors, interpolated-2, ... that is free.

    Raises VactkError when `output` is there already, or is no .safetensors file.
    """
    if output is None:
        return next_free(Path("interpolated.safetensors"))
    if output.suffix != ".safetensors":
        raise VactkError(f"the result is a .safetensors file, got --output '{output}'")
    if output.exists():
        is_input = any(_file(file).samefile(output) for file in files)
        raise VactkError(
            f"--output '{output}' is one of the inputs; choose another" if is_input
            else f"--output '{output}' exists; choose another, or delete it first"
        )  # fmt: skip
    return output


def next_free(path: Path) -> Path:
    """`path`, or with a number before its suffix where that is taken."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def _is_checkpoint_folder(path: Path) -> bool:
    """Whether `path` is a run folder, or a folder of open_clip's or Hugging Face's."""
    from vactk.weights.hub_folder import is_weights_folder

    return (path / "model.safetensors").is_file() or is_weights_folder(path)


def _file(path: Path) -> Path:
    own = path / "model.safetensors"
    return own if own.is_file() else path
