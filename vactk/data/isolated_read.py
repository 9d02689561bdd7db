"""Reading videos one at a time in worker processes, so that a hang or crash does not end this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar, cast

from vactk.data.worker_pool import BatchLoader, ItemReader
from vactk.progress import Progress
from vactk.video.container import VideoError

T = TypeVar("T")
TIMEOUT_S = 120.0  # the default of data.timeout_s


class SingleRead(Generic[T]):
    """An item reader whose only item is one call."""

    def __init__(self, read: Callable[[Path], T], video: Path) -> None:
        self.read = read
        self.video = video

    def __getitem__(self, key: int) -> tuple[T | None, VideoError | None]:
        try:
            return self.read(self.video), None
        except VideoError as error:
            return None, error

    def failed(self, key: int, reason: str) -> tuple[T | None, VideoError | None]:
        """Return the error of a decoder that hung or crashed."""
        return None, VideoError(self.video, reason)


def read_isolated(read: Callable[[Path], T], video: Path, *, timeout_s: float = TIMEOUT_S) -> T:
    """Return `read(video)`, called in a worker process. The result must be picklable.

    Raises VideoError as `read` does, when it takes longer than `timeout_s`, and when the worker crashes.
    """
    reader = BatchLoader(SingleRead(read, video), [[0]], _only, workers=1, timeout_s=timeout_s)
    ((value, error),) = reader
    if error is not None:
        raise error
    return cast(T, value)


def read_each(
    items: ItemReader[int, T],
    indices: Sequence[int],
    *,
    workers: int,
    timeout_s: float,
    progress: Progress | None = None,
) -> Iterator[T]:
    """Yield `items[index]` for each index, in order, read by workers; `items.failed` where one hangs or crashes."""
    loader = BatchLoader(items, [[index] for index in indices], _only, workers=workers, timeout_s=timeout_s)
    for done, item in enumerate(loader, 1):
        yield item
        if progress is not None:
            progress(done, len(indices))


def _only(items: list[T]) -> T:
    return items[0]
