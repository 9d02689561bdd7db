"""Progress and messages on stderr; tables, lines or one JSON object on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich import progress as bars
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from typer import confirm

from vactk.progress import Progress

PLAIN_EVERY_S = 10.0  # seconds between lines of progress if stderr is not a terminal
WIDEST = 1_000_000  # characters of a table that is not for a terminal
MAX_PROBLEMS = 20  # that are printed; --json has all
NUMBER_CHARACTERS = set("0123456789.,+-/% ")


def is_main_process() -> bool:
    """Return whether this is the process of a launch that prints: the one whose RANK is 0."""
    return os.environ.get("RANK", "0") == "0"


class Bars(bars.Progress):
    """Progress bars with a line of text below them."""

    note = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bars, then the note."""
        yield self.make_tasks_table(self.tasks)
        if self.note:
            yield Text(self.note, style="dim", overflow="ellipsis", no_wrap=True)


class Display:
    """The progress bars and messages of a command: a `Reporter`. Bars are drawn inside `with Display()`."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=not is_main_process())
        self.bars = Bars(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=24),
            bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
            console=self.console,
        )
        self._tasks: dict[str, bars.TaskID] = {}
        self._printed_s = 0.0
        self._first_step: tuple[int, float] | None = None  # and its time, in seconds

    def __enter__(self) -> Display:
        self._draw_bars(True)
        return self

    def __exit__(self, *exception: object) -> None:
        self._draw_bars(False)

    def message(self, text: str) -> None:
        """Print a line above the bars."""
        self.bars.console.print(text, markup=False, soft_wrap=True)

    def warning(self, text: str) -> None:
        """Print a warning above the bars; an empty one is none."""
        if text:
            self.message(f"warning: {text}")

    def confirm(self, question: str) -> bool:
        """Ask a yes/no question, with the bars paused."""
        self._draw_bars(False)
        answer = confirm(question, err=True)
        self._draw_bars(True)
        return answer

    def progress(self, what: str) -> Progress:
        """Return a callback that draws a bar called `what`."""
        return lambda done, total: self._show(what, done, total, "")

    def step(self, step: int, total_steps: int, epoch: float, values: dict[str, float]) -> None:
        """Update the training bar: losses, learning rate, videos per second, share of time waiting for data."""
        rates = ("lr", "grad_norm", "videos_per_s", "data_wait")
        losses = " ".join(
            f"{name} {value:.0f}%" if name.endswith("accuracy") else f"{name} {value:.3f}"
            for name, value in values.items()
            if name not in rates
        )
        note = (
            f"epoch {epoch:.1f}  {losses}  lr {values['lr']:.2g}  {values['videos_per_s']:.1f} videos/s  "
            f"waiting {100 * values['data_wait']:.0f}%{self._time_left(step, total_steps)}"
        )
        self._show("training", step, total_steps, note)

    def _time_left(self, step: int, total_steps: int) -> str:
        """Return the time that the other steps will take, for logs without a bar that shows it."""
        now = time.monotonic()
        self._first_step = self._first_step or (step, now)
        first, started = self._first_step
        if self.console.is_terminal or step == first:
            return ""
        left_s = round((now - started) / (step - first) * (total_steps - step))
        return f"  {timedelta(seconds=left_s)} left"

    def _draw_bars(self, on: bool) -> None:
        if self.console.is_terminal:  # elsewhere rich prints an empty line
            self.bars.start() if on else self.bars.stop()

    def _show(self, what: str, done: int, total: int, note: str) -> None:
        if not self.console.is_terminal:
            now = time.monotonic()
            if done < total and now - self._printed_s >= PLAIN_EVERY_S:
                self._printed_s = now
                self.message(f"{what} {done}/{total} {note}".rstrip())
            return
        if what not in self._tasks:
            self._tasks[what] = self.bars.add_task(what, total=total)
        self.bars.note = note
        self.bars.update(self._tasks[what], completed=done, total=total)


def print_json(value: dict[str, Any]) -> None:
    """Print the JSON object of a command on stdout."""
    console = Console(soft_wrap=True, highlight=False, quiet=not is_main_process())
    console.print(json.dumps(value, ensure_ascii=False), markup=False)


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table on stdout; columns of numbers are aligned right.

    For another program or a file, a row is a line, however wide.
    """
    console = Console(quiet=not is_main_process(), highlight=False)
    listed = [tuple(row) for row in rows]
    table = Table(title=title, title_justify="left")
    if not console.is_terminal:
        console.print(title, markup=False, soft_wrap=True)
        listed = [tuple("; ".join(cell.splitlines()) for cell in row) for row in listed]
        table.title, console.width = None, WIDEST
    for number, column in enumerate(columns):
        cells = {cell for row in listed for cell in row[number : number + 1]}
        has_numbers = bool(cells) and all(set(cell) <= NUMBER_CHARACTERS for cell in cells)
        table.add_column(column, justify="right" if has_numbers else "left", overflow="fold")
    for row in listed:
        table.add_row(*row)
    console.print(table)


def common_folder(paths: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Return the folder that holds all of several paths, and each path relative to it; "" where there is none."""
    every = list(dict.fromkeys(paths))
    parents = [str(Path(path).parent) for path in every]
    folder = ""
    with contextlib.suppress(ValueError):  # of relative and absolute paths, or of several drives
        folder = os.path.commonpath(parents) if len(every) > 1 else ""
    return folder, {path: os.path.relpath(path, folder) if folder else path for path in every}


def print_recalls(title: str, result: Mapping[str, Any]) -> None:
    """Print recalls and ranks of both directions, from the JSON result of a retrieval evaluation."""
    rows = [
        [
            name,
            *(percent(found[f"R@{k}"]) for k in (1, 5, 10)),
            *(f"{found[key]:.1f}" for key in ("MdR", "MnR")),
        ]
        for name, found in (("text to video", result["t2v"]), ("video to text", result["v2t"]))
    ]
    print_table(title, ("", "R@1", "R@5", "R@10", "median rank", "mean rank"), rows)


def print_line(text: str) -> None:
    """Print a line on stdout."""
    Console(soft_wrap=True, highlight=False, quiet=not is_main_process()).print(text, markup=False)


def print_problems(title: str, problems: Mapping[str, str]) -> None:
    """Print what is wrong with each video, below `title`; nothing if there are no problems."""
    if problems:
        print_line(f"{title}:")
    for video, message in list(problems.items())[:MAX_PROBLEMS]:
        print_line(f"  {message}" if video in message else f"  {video}: {message}")
    if len(problems) > MAX_PROBLEMS:
        print_line(f"  and {len(problems) - MAX_PROBLEMS:,} more: --json lists all")


def print_unreadable(result: Mapping[str, Any]) -> None:
    """Print the videos that a command could not read, or only partly, from its JSON result."""
    for key, title in (("failed", "Could not be read"), ("partial", "Could only be read in part")):
        print_problems(title, {item["video"]: item["error"] for item in result.get(key) or ()})


def describe_conditions(result: Mapping[str, Any]) -> str:
    """Describe frames, views, crops, templates and content of a result, on two lines."""
    skipped = ", unreadable videos left out" if result["unreadable"] == "skip" else ""
    return (
        f"{result['frames']} frames x {result['views']} views x {result['crops']} crops, "
        f"templates: {result['templates']}\ncontent {result['hash']}{skipped}"
    )


def percent(value: float | None) -> str:
    """Format a percentage with two decimals, or a dash for None."""
    return "-" if value is None else f"{value:.2f}"
