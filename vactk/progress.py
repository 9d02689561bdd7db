"""Progress reporting, as functions and objects that commands implement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Progress = Callable[[int, int], None]  # videos done, all videos


class Reporter(Protocol):
    """Hears of a run as it goes on: a progress display, or nobody."""

    def message(self, text: str) -> None:
        """Something worth a line."""

    def progress(self, what: str) -> Progress:
        """Work other than training steps begins; the result is told how far it is."""

    def step(self, step: int, total_steps: int, epoch: float, values: dict[str, float]) -> None:
        """A step was done; `values` as in metrics.jsonl."""
