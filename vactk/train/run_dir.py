"""The folder of a run: settings, metrics line by line, states to go on from, and the result."""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from vactk import config as settings
from vactk.errors import VactkError
from vactk.files.atomic import atomic_path, remove_leftovers, write_text
from vactk.train.recipe import Recipe

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

KEPT_STATES = 2  # the newest, and one to fall back on


class RunDir:
    """A run's files. Everything but metrics.jsonl and skipped.jsonl is written whole or not at all.

    Of several processes, only the one with `is_writer` writes.
    """

    def __init__(self, path: Path, *, is_writer: bool = True) -> None:
        self.path = path
        self.is_writer = is_writer
        self.checkpoint = path / "model.safetensors"
        self.metrics = path / "metrics.jsonl"
        self.config = path / "config.yaml"
        self.result = path / "result.json"
        self.record = path / "run.json"
        self.skipped = path / "skipped.jsonl"
        self.states = path / "states"
        self.saved_step: int | None = None  # of the state that was last saved, or loaded

    def open(self, recipe: Recipe, *, resume: bool) -> None:
        """Make the folder for `recipe`, or check that the run in it is the same.

        Raises VactkError when a run is there and not to be resumed, was told something else, or is under way.
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
                f"'{self.path}' already holds a run; go on with it by --resume, or choose another --output"
            )
        stored = settings.to_dict(settings.build(Recipe, settings.read_yaml(self.config)))
        changed = _differences(stored, settings.to_dict(recipe))
        if changed:
            raise VactkError(
                f"the run in '{self.path}' had other settings: {'; '.join(changed[:4])}; "
                "resume it with the same ones, or choose another --output"
            )

    def finished(self) -> dict[str, Any] | None:
        """The result of a run that has come to its end; None where it has not."""
        try:
            return dict(settings.parse_json(self.result.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise VactkError(f"'{self.result}' is damaged: remove it, and --resume measures again") from error

    def save_state(self, step: int, state: dict[str, Any]) -> None:
        """The state after `step` steps; the states before the last two go."""
        self.saved_step = step
        if not self.is_writer:
            return
        with atomic_path(self.states / f"step-{step:09d}.pt") as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # torch's writer reports a full disk as its own error
                raise OSError(str(error).splitlines()[0]) from error
        for old in self._state_files()[:-KEPT_STATES]:
            with contextlib.suppress(OSError):  # an old state too many does no harm
                old.unlink(missing_ok=True)

    def load_state(self, warn: Any) -> dict[str, Any] | None:
        """The newest state that reads, on the CPU; None when there is none. `warn` hears of damaged ones."""
        for path in reversed(self._state_files()):
            try:
                state = _read_state(path)
            except (
                Exception
            ) as error:  # damaged bytes make zipfile's and torch's readers raise nearly anything
                warn(f"'{path}' is damaged ({type(error).__name__}); going on from the state before it")
            else:
                self.saved_step = state["step"]
                return state
        return None

    def has_evaluation(self, step: int) -> bool:
        """Whether metrics.jsonl has the evaluation after `step` steps."""
        lines = self.metrics.read_bytes().splitlines() if self.metrics.exists() else []
        return any("evaluation" in line and line["step"] == step for line in map(settings.parse_json, lines))

    def append_metrics(self, line: dict[str, Any]) -> None:
        """One more line of metrics.jsonl."""
        self._append(self.metrics, line)

    def append_skipped(self, line: dict[str, Any]) -> None:
        """One more line of skipped.jsonl: a step that was left out, and its videos."""
        self._append(self.skipped, line)

    def cut_lines(self, step: int) -> None:
        """Drop the lines after `step`, and what was cut short: those steps will be run again."""
        if not self.is_writer:
            return
        for path in (self.metrics, self.skipped):
            if path.exists():
                lines = path.read_bytes().splitlines(keepends=True)
                write_text(path, b"".join(line for line in lines if _is_up_to(line, step)).decode())

    def add_record(self, piece: dict[str, Any]) -> None:
        """One more piece of the run in run.json: what it was run with, each time that it was started."""
        if not self.is_writer:
            return
        pieces: list[Any] = []
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # absent, or damaged: begin anew
            pieces = list(settings.parse_json(self.record.read_text(encoding="utf-8"))["pieces"])
        text = json.dumps({"pieces": [*pieces, piece]}, indent=1, ensure_ascii=False)
        write_text(self.record, text + "\n")

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
    """The file at `path`, locked for as long as it is open. Raises VactkError where another process has it."""
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise VactkError(f"cannot write '{path}': {error.strerror}") from error
    if fcntl is not None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise VactkError(f"another process is at work on the run in '{path.parent}'") from error
        except OSError:  # a file system without locks
            return file
    return file


def _read_state(path: Path) -> dict[str, Any]:
    """A saved state, every byte of it checked: torch does not look whether tensors are as they were written."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} is not what was written")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError("it holds no state")
    return state


def _is_up_to(line: bytes, step: int) -> bool:
    """Whether a line of a log is whole, and of a step up to `step`."""
    try:
        values = settings.parse_json(line)
        return line.endswith(b"\n") and values["step"] <= step
    except (ValueError, TypeError, KeyError):
        return False


# settings that may change between the pieces of a run, because they do not change its result; but the number
# of pieces of a batch, which changes what a video is contrasted with, has to where memory runs out
FREE = (
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
        elif before != after and name not in FREE:
            found.append(f"{name} was {before!r}, now {after!r}")
    return found
