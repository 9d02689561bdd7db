"""Loading batches in worker processes, any of which may hang or crash without ending the run."""

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
from vactk.child_processes import Parent, begin_worker, signals_held, this_process
from vactk.errors import VactkError

Key = TypeVar("Key")
KeyIn = TypeVar("KeyIn", contravariant=True)
Item = TypeVar("Item")
ItemOut = TypeVar("ItemOut", covariant=True)
Batch = TypeVar("Batch")

DEPTH = 2  # batches queued per worker: one to read, and one so that it never waits
POLL_S = 0.5
CRASHES_ALLOWED = 2  # of workers on one item; the first may have another cause, such as a lack of memory
SHARED_MEMORY = "/dev/shm"


class ItemReader(Protocol[KeyIn, ItemOut]):
    """Reads items by key, in a worker process."""

    def __getitem__(self, key: KeyIn, /) -> ItemOut: ...

    def failed(self, key: KeyIn, reason: str, /) -> ItemOut:
        """Return the replacement for an item on which a worker hung or crashed."""
        ...


@dataclass
class Task(Generic[Key]):
    """A batch to read, with the crashes and losses on its items so far."""

    number: int
    keys: Sequence[Key]
    crashes: dict[int, int] = field(default_factory=dict)  # by index into `keys`
    lost: dict[int, str] = field(default_factory=dict)  # {index into `keys`: why the item was given up}


class BatchLoader(Generic[Key, Item, Batch]):
    """Iterates over batches in order, each read by one worker.

    An item on which a worker takes longer than `timeout_s`, or crashes twice, is replaced by the source's `failed`;
    a new worker replaces the lost one. Without workers, everything is read in this process, unprotected. A deferred
    signal ends the iteration with Stopped.
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
        self.finish = finish  # applied to each batch in this process
        self.batches = batches
        self.collate = collate
        self.timeout_s = timeout_s
        self.workers, self.shared = fit_memory(workers, batch_bytes)

    def __iter__(self) -> Generator[Batch, None, None]:
        if not self.workers:
            for keys in self.batches:
                yield self.finish(self.collate([self._read(key) for key in keys]))
            return
        workers = [_Worker(self.source, self.collate, self.shared) for _ in range(self._num_needed())]
        tasks = (Task(number, keys) for number, keys in enumerate(self.batches))
        done: dict[int, Batch] = {}
        number = 0
        try:
            while True:
                interrupt.check()
                for _ in range(DEPTH):
                    for worker in sorted(workers, key=lambda worker: len(worker.tasks)):
                        if len(worker.tasks) < DEPTH and len(done) < DEPTH * len(workers):
                            _give_next(worker, tasks)
                if number in done:
                    yield self.finish(done.pop(number))
                    number += 1
                elif not any(worker.tasks for worker in workers):
                    return
                else:
                    self._collect(workers, done)
        finally:
            for worker in workers:
                worker.stop()

    def _read(self, key: Key) -> Item:
        interrupt.check()
        return self.source[key]

    def _num_needed(self) -> int:
        """Return the number of workers, at most the number of batches."""
        count = len(self.batches) if isinstance(self.batches, Sized) else self.workers
        return min(self.workers, max(1, count))

    def _collect(self, workers: list[_Worker], done: dict[int, Batch]) -> None:
        """Receive finished batches, and replace workers that hang or have died."""
        busy = [worker for worker in workers if worker.tasks]
        waited = [worker.connection for worker in busy] + [worker.process.sentinel for worker in busy]
        with interrupt.at_once():
            wait(waited, timeout=min(POLL_S, self.timeout_s))
        for worker in busy:
            alive = worker.process.is_alive()  # before receiving: all that it sent has arrived
            if not worker.receive(done):
                alive = False
            if alive and worker.is_late(self.timeout_s):
                workers[workers.index(worker)] = self._replace(
                    worker, f"reading it took over {self.timeout_s:g} s"
                )
            elif not alive and worker.tasks:
                workers[workers.index(worker)] = self._replace(worker, None)

    def _replace(self, worker: _Worker, reason: str | None) -> _Worker:
        """Return a new worker with the tasks of a lost one; with `reason`, its current item is given up."""
        number, place, reading = worker.number, worker.place, worker.started_s > 0
        worker.stop()
        # It may have died with finished batches in transit: these are read again, and not counted as crashed.
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
    """A worker process, as seen from the parent process."""

    def __init__(self, source: Any, collate: Callable[[list[Any]], Any], shared: bool) -> None:
        context = torch.multiprocessing.get_context()
        try:
            get_temp_dir()  # of this process, which removes it: workers are killed, and would leave theirs behind
            self.connection, theirs = context.Pipe()
            self._heartbeat = context.RawArray("d", 3)  # current item: start time, 0 if none; index; batch
            parent = this_process(context.get_start_method())
            self.process = context.Process(
                target=_work, args=(parent, source, collate, theirs, self._heartbeat, shared), daemon=True
            )
            with signals_held():
                self.process.start()
        except OSError as error:
            raise VactkError(
                f"cannot start a data-loading worker: {error.strerror}; --workers 0 needs none"
            ) from error
        theirs.close()
        self.tasks: list[Task[Any]] = []  # in reading order

    @property
    def started_s(self) -> float:
        return self._heartbeat[0]

    @property
    def place(self) -> int:
        return int(self._heartbeat[1])

    @property
    def number(self) -> int:
        return int(self._heartbeat[2])

    def is_late(self, timeout_s: float) -> bool:
        started_s = self.started_s
        return started_s > 0 and time.monotonic() - started_s > timeout_s

    def give(self, task: Task[Any]) -> None:
        self.tasks.append(task)
        with contextlib.suppress(OSError):  # it has died, which `receive` reports
            self.connection.send((task.number, task.keys, task.lost))

    def receive(self, done: dict[int, Any]) -> bool:
        """Add finished batches to `done`; return False if the worker is lost."""
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
    """Return (number of workers, whether tensors go through shared memory) that fit the shared memory.

    Containers often have 64 MB of it, which a batch can exceed; batches then go through pipes, more slowly.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # systems without this folder
        return workers, True
    in_flight = (DEPTH * 2) * batch_bytes  # per worker: queued, and read but not yet taken
    if workers * in_flight <= free or not batch_bytes:
        return workers, True
    fitting = free // in_flight
    return (int(fitting), True) if fitting * 2 >= workers else (workers, False)


def usable_processors() -> int:
    """Return the number of CPUs for this process, divided among the processes of a launch on this machine."""
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
    heartbeat: Any,
    shared: bool,
) -> None:
    """Run a worker process."""
    begin_worker(parent)
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
                heartbeat[1], heartbeat[2] = place, number
                heartbeat[0] = time.monotonic()
                items.append(source[key])
                heartbeat[0] = 0.0
            batch = collate(items)
            connection.send((number, batch if shared else _to_bytes(batch), None))
        except (BrokenPipeError, ConnectionResetError):
            return
        except VactkError as error:  # such as a full disk, for readers that write files
            heartbeat[0] = 0.0
            connection.send((number, None, VactkError(str(error))))
        except Exception:
            heartbeat[0] = 0.0
            connection.send((number, None, traceback.format_exc()))


def _to_bytes(batch: Any) -> Any:
    """Turn tensors into arrays, whose bytes go through pipes."""
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
