"""Processes whose workers hang on purpose, as decoders do on some videos, and what becomes of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

from accelerate.state import AcceleratorState

from vactk.data import worker_pool

WITHIN_S = 6.0  # twice what is promised: test machines are busy
real_work = worker_pool._work


class Hanging:
    """A source of which a worker reads `healthy` items; with "training", all that are not for measuring."""

    def __init__(self, source, folder, healthy):
        self.source, self.folder, self.healthy, self.read = source, folder, healthy, 0

    def __getitem__(self, key):
        measures = not getattr(self.source, "train", False)
        if measures if self.healthy == "training" else self.read >= self.healthy:
            (self.folder / str(os.getpid())).touch()
            time.sleep(600)
        self.read += 1
        return self.source[key]


@contextlib.contextmanager
def started(function, folder, *, healthy=0):
    """`function()` in a forked process whose workers hang; they leave their process numbers in `folder`."""
    folder.mkdir()
    fork = multiprocessing.get_context("fork")

    def work(parent, source, *rest):
        real_work(parent, Hanging(source, folder, healthy), *rest)

    def run():
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # shells have jobs in the background ignore it
        AcceleratorState._reset_state(reset_partial_state=True)  # of tests before, which ran alone
        worker_pool._work = work
        multiprocessing.get_context = lambda method=None: fork  # for launches: none imports torch again
        with folder.with_suffix(".log").open("w") as log:
            sys.stdout = sys.stderr = log
            function()

    process = fork.Process(target=run)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def wait_until(condition, timeout_s=60.0):
    """Return once `condition()` holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.02)


def hanging(folder, count=1):
    """The process numbers of the workers that hang, once there are `count`."""
    wait_until(lambda: len(list(folder.iterdir())) >= count)
    return [int(path.name) for path in folder.iterdir()]


def is_alive(pid):
    """Whether there is a process that is more than an entry nobody has collected."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def seconds_until_end(process, number):
    """How long `process` takes to end after a signal. AssertionError where it does not."""
    started_s = time.monotonic()
    os.kill(process.pid, number)
    process.join(20)
    assert process.exitcode is not None, "it goes on"
    return time.monotonic() - started_s
