"""Ctrl-C and the end of a job's time, put off until work can stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A signal that had been put off was heard."""


class _Heard:
    """Whether a signal came, and whether it may interrupt whatever is being done."""

    def __init__(self) -> None:
        self.wanted = False
        self.at_once = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted = True
        if self.at_once:
            raise Stopped


_heard: _Heard | None = None  # None: signals do what they always do


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Put the first Ctrl-C off to the next `check`, so that a step can end; the second interrupts at once.

    SIGTERM does the same, however often it comes: it is how schedulers announce the end of a job's time.
    """
    global _heard
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, _heard = _heard, _Heard()
    handler = _heard.on_signal
    former = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _heard = outer
        for number, before in former.items():
            signal.signal(number, before)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Let signals interrupt what is done here, which leaves nothing half done behind."""
    heard = _heard
    if heard is None:
        yield
        return
    heard.at_once = True
    try:
        check()
        yield
    finally:
        heard.at_once = False


def check() -> None:
    """Raise Stopped where a signal was put off: called wherever a run can stop."""
    if _heard is not None and _heard.wanted:
        raise Stopped
