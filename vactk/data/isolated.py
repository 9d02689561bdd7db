"""One reading of a video in a process of its own: for what is read where no workers are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar, cast

from vactk.data.workers import BatchReader
from vactk.video.container import VideoError

T = TypeVar("T")
TIMEOUT_S = 120.0  # as of data.timeout_s


class Reading(Generic[T]):
    """The call as the source of a worker: its only item."""

    def __init__(self, read: Callable[[Path], T], video: Path) -> None:
        self.read = read
        self.video = video

    def __getitem__(self, key: int) -> tuple[T | None, VideoError | None]:
        try:
            return self.read(self.video), None
        except VideoError as error:
            return None, error

    def failed(self, key: int, reason: str) -> tuple[T | None, VideoError | None]:
        """A video whose decoder hung or crashed."""
        return None, VideoError(self.video, reason)


def read_isolated(read: Callable[[Path], T], video: Path, *, timeout_s: float = TIMEOUT_S) -> T:
    """Return `read(video)`, called in a worker that is ended after `timeout_s`, and may crash.

    Raises VideoError then, and as `read` does. What it returns must be made to be sent to other processes.
    """
    reader = BatchReader(Reading(read, video), [[0]], _only, workers=1, timeout_s=timeout_s)
    ((value, error),) = reader
    if error is not None:
        raise error
    return cast(T, value)


def _only(items: list[T]) -> T:
    return items[0]
