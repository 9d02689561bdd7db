"""The two interfaces through which long work reports how far it is; displays implement them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Progress = Callable[[int, int], None]  # called with the number of items done, and of all items


class Reporter(Protocol):
    """Shows a user the progress of a command: lines of text, bars, and the steps of a training run."""

    def message(self, text: str) -> None:
        """Show a line of text."""

    def progress(self, what: str) -> Progress:
        """Show a bar named `what`; the function that comes back moves it."""

    def step(self, step: int, total_steps: int, epoch: float, values: dict[str, float]) -> None:
        """Show that `step` training steps are done; `values` are the metrics of the last one."""
