"""Batches read ahead by worker processes, any of which may hang or die without ending the run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.util import get_temp_dir
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
import torch.multiprocessing

from vactk import interrupt
from vactk.child_processes import Parent, end_with, hear_signals, signals_held, this_process
from vactk.errors import VactkError

Key = TypeVar("Key")
KeyIn = TypeVar("KeyIn", contravariant=True)
Item = TypeVar("Item")
ItemOut = TypeVar("ItemOut", covariant=True)
Batch = TypeVar("Batch")

DEPTH = 2  # batches that a worker is given at once: one to read, and one so that it need not wait
POLL_S = 0.5
CRASHES_ALLOWED = (
    2  # of workers on one item: the first may have been another's doing, such as a lack of memory
)
SHARED_MEMORY = "/dev/shm"


class ItemReader(Protocol[KeyIn, ItemOut]):
    """What is read."""

    def __getitem__(self, key: KeyIn, /) -> ItemOut: ...

    def failed(self, key: KeyIn, reason: str, /) -> ItemOut:
        """What stands for an item on which a worker was lost."""
        ...


@dataclass
class Task(Generic[Key]):
    """A batch to read."""

    number: int
    keys: Sequence[Key]
    crashes: dict[int, int] = field(default_factory=dict)  # by the place in `keys`
    lost: dict[int, str] = field(default_factory=dict)  # places given up, and why


class BatchLoader(Generic[Key, Item, Batch]):
    """Iterates over batches, in their order, each read whole by one worker.

    An item on which a worker takes longer than `timeout_s`, or twice dies, comes as the source's `failed`; a
    new worker takes the place of the lost one. Without workers everything is read here, unprotected. A signal
    that is put off ends the iteration, by Stopped.
    """

    def __init__(
        self,
        source: ItemReader[Key, Item],
        batches: Iterable[Sequence[Key]],
        collate: Callable[[list[Item]], Batch],
        *,
        workers: int,
        timeout_s: float,
        batch_bytes: int = 0,
        finish: Callable[[Batch], Batch] = lambda batch: batch,
    ) -> None:
        self.source = source
        self.finish = finish  # done to each batch in this process
        self.batches = batches
        self.collate = collate
        self.timeout_s = timeout_s
        self.workers, self.shared = fit_memory(workers, batch_bytes)

    def __iter__(self) -> Generator[Batch, None, None]:
        if not self.workers:
            for keys in self.batches:
                yield self.finish(self.collate([self._read(key) for key in keys]))
            return
        crew = [_Worker(self.source, self.collate, self.shared) for _ in range(self._crew_size())]
        tasks = (Task(number, keys) for number, keys in enumerate(self.batches))
        done: dict[int, Batch] = {}
        number = 0
        try:
            while True:
                interrupt.check()
                for _ in range(DEPTH):
                    for worker in sorted(crew, key=lambda worker: len(worker.tasks)):
                        if len(worker.tasks) < DEPTH and len(done) < DEPTH * len(crew):
                            _give_next(worker, tasks)
                if number in done:
                    yield self.finish(done.pop(number))
                    number += 1
                elif not any(worker.tasks for worker in crew):
                    return
                else:
                    self._collect(crew, done)
        finally:
            for worker in crew:
                worker.stop()

    def _read(self, key: Key) -> Item:
        interrupt.check()
        return self.source[key]

    def _crew_size(self) -> int:
        """No more workers than batches."""
        count = len(self.batches) if isinstance(self.batches, Sized) else self.workers
        return min(self.workers, max(1, count))

    def _collect(self, crew: list[_Worker], done: dict[int, Batch]) -> None:
        """What workers have finished; and new workers for those that hang or died."""
        busy = [worker for worker in crew if worker.tasks]
        waited = [worker.connection for worker in busy] + [worker.process.sentinel for worker in busy]
        with interrupt.at_once():
            wait(waited, timeout=min(POLL_S, self.timeout_s))
        for worker in busy:
            alive = worker.process.is_alive()  # before reading: what it sent until then is there
            if not worker.receive(done):
                alive = False
            if alive and worker.is_late(self.timeout_s):
                crew[crew.index(worker)] = self._replace(worker, f"reading it took over {self.timeout_s:g} s")
            elif not alive and worker.tasks:
                crew[crew.index(worker)] = self._replace(worker, None)

    def _replace(self, worker: _Worker, reason: str | None) -> _Worker:
        """A new worker with the tasks of a lost one. `reason` to give up the item at hand; None: it died."""
        number, place, reading = worker.number, worker.place, worker.started_s > 0
        worker.stop()
        # It may have died with finished batches on their way: those are read again, and blamed for nothing.
        task = next((task for task in worker.tasks if task.number == number), worker.tasks[0])
        crashes = task.crashes[place] = task.crashes.get(place, 0) + 1
        if reason is None and crashes >= CRASHES_ALLOWED:
            cause = cause_of_death(worker.process.exitcode)
            if not reading or cause == "SIGKILL":  # the system's way out where memory runs short
                raise VactkError(
                    f"the processes that read videos are ended from outside ({cause}); is there enough memory? "
                    "Try fewer --workers or a smaller --batch-size"
                )
            reason = f"the decoder crashed ({cause})"
        if reason is not None:
            task.lost[place] = reason
        new = _Worker(self.source, self.collate, self.shared)
        for left in worker.tasks:
            new.give(left)
        return new


class _Worker:
    """A process that reads batches, as seen from the one that trains."""

    def __init__(self, source: Any, collate: Callable[[list[Any]], Any], shared: bool) -> None:
        context = torch.multiprocessing.get_context()
        try:
            get_temp_dir()  # of this process, which removes it: workers are killed, and would leave theirs behind
            self.connection, theirs = context.Pipe()
            self._pulse = context.RawArray(
                "d", 3
            )  # when the item at hand was begun, 0 if none is; its place; its batch
            parent = this_process(context.get_start_method())
            self.process = context.Process(
                target=_work, args=(parent, source, collate, theirs, self._pulse, shared), daemon=True
            )
            with signals_held():
                self.process.start()
        except OSError as error:
            raise VactkError(
                f"cannot start a process that reads videos: {error.strerror}; --workers 0 goes without"
            ) from error
        theirs.close()
        self.tasks: list[Task[Any]] = []  # in the order in which they are read

    @property
    def started_s(self) -> float:
        return self._pulse[0]

    @property
    def place(self) -> int:
        return int(self._pulse[1])

    @property
    def number(self) -> int:
        return int(self._pulse[2])

    def is_late(self, timeout_s: float) -> bool:
        started_s = self.started_s
        return started_s > 0 and time.monotonic() - started_s > timeout_s

    def give(self, task: Task[Any]) -> None:
        self.tasks.append(task)
        with contextlib.suppress(OSError):  # it has died: seen when its results are collected
            self.connection.send((task.number, task.keys, task.lost))

    def receive(self, done: dict[int, Any]) -> bool:
        """Take the batches that are ready. False where the worker is lost."""
        try:
            while self.connection.poll():
                number, batch, error = self.connection.recv()
                if isinstance(error, VactkError):
                    raise error
                if error is not None:
                    raise RuntimeError(f"reading a batch failed in a worker process:\n{error}")
                self.tasks = [task for task in self.tasks if task.number != number]
                done[number] = _from_bytes(batch)
        except (EOFError, OSError):  # OSError: it died after sending, and took the tensors along
            return False
        return True

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def fit_memory(workers: int, batch_bytes: int) -> tuple[int, bool]:
    """(workers, whether tensors go through shared memory) for what shared memory has room for.

    Containers often have 64 MB of it, which a batch can exceed; then batches go through pipes, more slowly.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # not a system that has it under this name
        return workers, True
    in_flight = (DEPTH * 2) * batch_bytes  # of each worker: given, and read and not yet taken
    if workers * in_flight <= free or not batch_bytes:
        return workers, True
    fitting = free // in_flight
    return (int(fitting), True) if fitting * 2 >= workers else (workers, False)


def usable_processors() -> int:
    """Processors that this process may run on, shared out over the processes of a launch on this machine."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, count // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))


def _give_next(worker: _Worker, tasks: Iterator[Task[Any]]) -> None:
    task = next(tasks, None)
    if task is not None:
        worker.give(task)


def _work(
    parent: Parent,
    source: Any,
    collate: Callable[[list[Any]], Any],
    connection: Connection,
    pulse: Any,
    shared: bool,
) -> None:
    """The life of a worker."""
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches workers too: the main process ends them
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever the main process does on it
    hear_signals()
    torch.set_num_threads(1)
    while True:
        try:
            number, keys, lost = connection.recv()
        except (EOFError, OSError):
            return
        try:
            items = []
            for place, key in enumerate(keys):
                if place in lost:
                    items.append(source.failed(key, lost[place]))
                    continue
                pulse[1], pulse[2] = place, number
                pulse[0] = time.monotonic()
                items.append(source[key])
                pulse[0] = 0.0
            batch = collate(items)
            connection.send((number, batch if shared else _to_bytes(batch), None))
        except (BrokenPipeError, ConnectionResetError):
            return
        except VactkError as error:  # such as a full disk, for what is read and written again
            pulse[0] = 0.0
            connection.send((number, None, VactkError(str(error))))
        except Exception:
            pulse[0] = 0.0
            connection.send((number, None, traceback.format_exc()))


def _to_bytes(batch: Any) -> Any:
    """Tensors as arrays, which go through pipes by their bytes."""
    if not hasattr(batch, "_fields"):
        return batch
    return type(batch)(*(part.numpy() if isinstance(part, torch.Tensor) else part for part in batch))


def _from_bytes(batch: Any) -> Any:
    if not hasattr(batch, "_fields"):
        return batch
    return type(batch)(*(torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in batch))


def cause_of_death(exitcode: int | None) -> str:
    """An exit code as the name of the signal that it stands for."""
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"
