"""Readings of videos in processes of their own, which may hang or die: for what is read where no workers are."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from vactk.child_processes import Parent, begin_worker, signals_held, this_process
from vactk.data.worker_pool import CRASHES_ALLOWED, BatchLoader, ItemReader, cause_of_death
from vactk.errors import VactkError
from vactk.progress import Progress
from vactk.video.container import VideoError

T = TypeVar("T")
TIMEOUT_S = 120.0  # as of data.timeout_s
START_S = 120.0  # that a process may take to load its modules
EPILOGUE_S = 1.0  # that one may take to end, once it was killed


class LostError(VideoError):
    """A video whose reading took too long, or crashed, and took its process along."""


class IsolatedReader:
    """Calls functions that read videos, from any thread, each call in a process that serves no other meanwhile.

    Processes stay for the calls to come until `close`.
    """

    def __init__(self, *, preload: Sequence[str] | None = None) -> None:
        """Start processes as workers are started or, with `preload`, in a way that is safe beside other threads.

        Processes forked while other threads hold locks would find them locked forever. With `preload` they are
        forked from one more process, which has loaded these modules and is ready when this returns.
        """
        method = None
        if preload is not None:
            method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._context: Any = multiprocessing.get_context(method)
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._closed = False
        if preload is not None:
            self._context.set_forkserver_preload(list(preload))
            self._give_back(self._take(Path()))

    def __enter__(self) -> IsolatedReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def call(self, video: Path, function: Callable[..., T], *arguments: object, timeout_s: float) -> T:
        """Return `function(*arguments)`, which reads `video`. What goes there and back must be pickled.

        Raises the VactkError that it raises; LostError where it takes over `timeout_s`, or twice ends its process.
        """
        reason = ""
        for _ in range(CRASHES_ALLOWED):
            process = self._take(video)
            try:
                outcome = process.call(function, arguments, timeout_s)
            except BaseException as error:
                self._end(process)
                if not isinstance(error, (EOFError, OSError)):
                    raise
                reason = f"the decoder crashed ({cause_of_death(process.process.exitcode)})"
                if isinstance(error, TimeoutError):
                    reason = f"reading it took over {timeout_s:g} s"
                    break
            else:
                self._give_back(process)
                if outcome.error is not None:
                    raise outcome.error
                return outcome.value
        raise LostError(video, reason)

    def close(self) -> None:
        """End all processes. Calls under way raise LostError."""
        with self._lock:
            self._closed = True
            idle, busy = self._idle, set(self._busy)
            self._idle = []
        for process in busy:
            process.process.kill()
        for process in idle:
            process.end()

    def _take(self, video: Path) -> _Process:
        with self._lock:
            process = self._idle.pop() if self._idle else None
        process = process or _Process(self._context)
        with self._lock:
            self._busy.add(process)  # from now on `close` ends it
        try:
            if self._closed:
                raise EOFError
            process.wait_until_ready()
        except BaseException as error:
            self._end(process)
            if self._closed:
                raise LostError(video, "the program is ending") from error
            if isinstance(error, (EOFError, OSError)):
                raise _not_started(error) from error
            raise
        return process

    def _give_back(self, process: _Process) -> None:
        with self._lock:
            if not self._closed:
                self._busy.discard(process)
                self._idle.append(process)
                return
        self._end(process)

    def _end(self, process: _Process) -> None:
        self._busy.discard(process)
        process.end()


def read_isolated(read: Callable[[Path], T], video: Path, *, timeout_s: float = TIMEOUT_S) -> T:
    """Return `read(video)`, called in a process of its own, which is gone afterwards.

    Raises as `IsolatedReader.call` does.
    """
    with IsolatedReader() as reader:
        return reader.call(video, read, video, timeout_s=timeout_s)


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


class _Outcome(NamedTuple):
    """The result of a call, or its error."""

    value: Any = None
    error: Exception | None = None


class _Process:
    """A process that makes calls, one after another."""

    def __init__(self, context: Any) -> None:
        get_temp_dir()  # of this process, which removes it: the new one is killed, and would leave its own behind
        try:
            self.connection, theirs = context.Pipe()
            parent = this_process(context.get_start_method())
            self.process = context.Process(target=_serve, args=(parent, theirs), daemon=True)
            with signals_held():
                self.process.start()
            theirs.close()
        except (OSError, EOFError) as error:
            raise _not_started(error) from error
        self._is_ready = False

    def wait_until_ready(self) -> None:
        """So that a call's time is its own. Raises as `call` does."""
        if not self._is_ready:
            self._receive(START_S)
            self._is_ready = True

    def call(self, function: Callable[..., Any], arguments: Sequence[object], timeout_s: float) -> _Outcome:
        """Raises TimeoutError, and EOFError or OSError where the process died."""
        self.connection.send((function, arguments))
        outcome: _Outcome = self._receive(timeout_s)
        return outcome

    def end(self) -> None:
        self.process.kill()
        self.process.join(EPILOGUE_S)  # one that waits for a dead disk cannot even be killed
        self.connection.close()

    def _receive(self, timeout_s: float) -> Any:
        if not wait([self.connection, self.process.sentinel], timeout_s):
            raise TimeoutError
        if not self.connection.poll():
            raise EOFError
        return self.connection.recv()


def _not_started(error: Exception) -> VactkError:
    return VactkError(f"cannot start a process that reads videos: {error or 'it ended'}")


def _serve(parent: Parent, connection: Connection) -> None:
    """The life of a process."""
    begin_worker(parent)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone, or has no more calls
        connection.send(None)
        while True:
            function, arguments = connection.recv()
            connection.send(_outcome(function, arguments))


def _outcome(function: Callable[..., Any], arguments: Sequence[object]) -> _Outcome:
    try:
        return _Outcome(function(*arguments))
    except VactkError as error:
        return _Outcome(error=error)
    except Exception:
        return _Outcome(error=RuntimeError(f"reading a video failed:\n{traceback.format_exc()}"))
