"""Ctrl-C and the end of a job's time, heard between steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that a step can end and be saved; the second interrupts at once.

    SIGTERM does the same, however often it comes: it is how schedulers announce the end of a job's time.
    """
    wanted = threading.Event()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if wanted.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        wanted.set()

    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return
    former = {number: signal.signal(number, on_interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wanted
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
