"""The folder of a run: settings, metrics, saved states, provenance and the result."""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch

from vactk import config as settings
from vactk.errors import VactkError, first_line
from vactk.files.atomic import atomic_path, remove_leftovers, write_text
from vactk.train.recipe import Recipe

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

KEPT_STATES = 2  # the newest, and one as a fallback


class RunDir:
    """The files of a run. All but metrics.jsonl and skipped.jsonl are written atomically.

    Of several processes, only the one with `is_writer` writes.
    """

    def __init__(self, path: Path, *, is_writer: bool = True) -> None:
        self.path = path
        self.is_writer = is_writer
        self.checkpoint = path / "model.safetensors"
        self.metrics = path / "metrics.jsonl"
        self.config = path / "config.yaml"
        self.result = path / "result.json"
        self.provenance = path / "run.json"
        self.skipped = path / "skipped.jsonl"
        self.states = path / "states"
        self.saved_step: int | None = None  # step of the state last saved or loaded

    def open(self, recipe: Recipe, *, resume: bool) -> None:
        """Make the folder for `recipe`, or check that the run in it has the same settings.

        Raises VactkError when it holds a run that is not to be resumed, has other settings, or is running.
        """
        if not self.is_writer:
            return
        self._open(recipe, resume)
        self._lock = _locked(self.path / "run.lock")
        for folder in (self.path, self.states):
            remove_leftovers(folder)

    def _open(self, recipe: Recipe, resume: bool) -> None:
        if not self.config.exists():
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise VactkError(f"'{self.path}' exists and holds no run; choose another --output")
            write_text(self.config, settings.to_yaml(recipe))
            return
        if not resume:
            raise VactkError(
                f"'{self.path}' already holds a run; continue it with --resume, or choose another --output"
            )
        stored = settings.to_dict(settings.build(Recipe, settings.read_yaml(self.config)))
        changed = _differences(stored, settings.to_dict(recipe))
        if changed:
            raise VactkError(
                f"the run in '{self.path}' had other settings: {'; '.join(changed[:4])}; "
                "resume it with the same ones, or choose another --output"
            )

    def finished(self) -> dict[str, Any] | None:
        """Return the result of a finished run; None where it is unfinished."""
        try:
            return dict(settings.parse_json(self.result.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise VactkError(
                f"'{self.result}' is damaged: remove it, and --resume evaluates again"
            ) from error

    def save_state(self, step: int, state: dict[str, Any]) -> None:
        """Save the state after `step` steps, and remove all older ones but one."""
        self.saved_step = step
        if not self.is_writer:
            return
        with atomic_path(self.states / f"step-{step:09d}.pt") as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # torch's writer reports a full disk as its own error
                raise OSError(first_line(error)) from error
        for old in self._state_files()[:-KEPT_STATES]:
            with contextlib.suppress(OSError):  # an old state too many does no harm
                old.unlink(missing_ok=True)

    def load_state(self, warn: Callable[[str], None]) -> dict[str, Any] | None:
        """Load the newest intact state, on the CPU; None when there is none. `warn` is called for damaged ones."""
        for path in reversed(self._state_files()):
            try:
                state = _read_state(path)
            except (
                Exception
            ) as error:  # damaged bytes make zipfile's and torch's readers raise nearly anything
                warn(f"'{path}' is damaged ({type(error).__name__}); trying the state before it")
            else:
                self.saved_step = state["step"]
                return state
        return None

    def evaluations(self) -> dict[int, dict[str, Any]]:
        """Return the evaluations in metrics.jsonl, by the number of steps that were done."""
        return {line["step"]: line["evaluation"] for line in self._lines() if "evaluation" in line}

    def losses(self) -> list[float]:
        """Return the losses in metrics.jsonl, in the order of the steps."""
        return [line["loss"] for line in self._lines() if "loss" in line]

    def _lines(self) -> Iterator[dict[str, Any]]:
        lines = self.metrics.read_bytes().splitlines() if self.metrics.exists() else []
        return map(settings.parse_json, lines)

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        self._append(self.metrics, line)

    def append_skipped(self, line: dict[str, Any]) -> None:
        """Append a line to skipped.jsonl: a skipped step and its videos."""
        self._append(self.skipped, line)

    def drop_lines_after(self, step: int) -> None:
        """Drop the lines of steps after `step`, which will be taken again, and incomplete lines."""
        if not self.is_writer:
            return
        for path in (self.metrics, self.skipped):
            if path.exists():
                lines = path.read_bytes().splitlines(keepends=True)
                write_text(path, b"".join(line for line in lines if _is_up_to(line, step)).decode())

    def add_provenance(self, segment: dict[str, Any]) -> None:
        """Append a segment to run.json: each time that the run is started or resumed begins one."""
        if not self.is_writer:
            return
        segments: list[Any] = []
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # absent, or damaged: begin anew
            segments = list(settings.parse_json(self.provenance.read_text(encoding="utf-8"))["segments"])
        text = json.dumps({"segments": [*segments, segment]}, indent=1, ensure_ascii=False)
        write_text(self.provenance, text + "\n")

    def _append(self, path: Path, line: dict[str, Any]) -> None:
        if not self.is_writer:
            return
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise VactkError(
                f"cannot write '{path}': {error.strerror}; free some space, then --resume"
            ) from error

    def _state_files(self) -> list[Path]:
        if not self.states.is_dir():
            return []
        return sorted(path for path in self.states.iterdir() if re.fullmatch(r"step-\d{9}\.pt", path.name))


def _locked(path: Path) -> IO[str]:
    """Open and lock the file at `path` until it is closed. Raises VactkError where another process holds it."""
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise VactkError(f"cannot write '{path}': {error.strerror}") from error
    if fcntl is not None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise VactkError(f"another process is running in '{path.parent}'") from error
        except OSError:  # a file system without locks
            return file
    return file


def _read_state(path: Path) -> dict[str, Any]:
    """Read a saved state and verify its checksums, which torch does not do for tensors."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"checksum mismatch in {damaged}")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError("not a saved state")
    return state


def _is_up_to(line: bytes, step: int) -> bool:
    """Return whether a log line is complete, and of a step up to `step`."""
    try:
        values = settings.parse_json(line)
        return line.endswith(b"\n") and values["step"] <= step
    except (ValueError, TypeError, KeyError):
        return False


# Settings that may change when a run is resumed, because they do not change its result. run.accumulate does,
# through the videos that one is contrasted with, but where memory runs out it has to change.
CHANGEABLE = (
    "data.workers",
    "data.timeout_s",
    "data_root",
    "run.accumulate",
    "run.auto_accumulate",
    "run.device",
    "run.log_every",
    "run.max_failed",
    "run.max_skipped",
    "run.save_every",
    "run.tracker",
)


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in {**old, **new}:
        name, before, after = prefix + key, old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, name + ".")
        elif before != after and name not in CHANGEABLE:
            found.append(f"{name} was {before!r}, now {after!r}")
    return found
