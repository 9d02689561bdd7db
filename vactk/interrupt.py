"""Deferred signals: Ctrl-C and SIGTERM wait until the work in progress can stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(KeyboardInterrupt):
    """Raised where work can stop, after a signal that was deferred."""


class _Deferred:
    """Records whether a signal came, and whether it may interrupt the work in progress at once."""

    def __init__(self) -> None:
        self.received = False
        self.at_once = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True
        if self.at_once:
            raise Stopped


_deferred: _Deferred | None = None  # None: signals act as usual


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Defer the first Ctrl-C to the next `check`, so that a step can end; a second one interrupts at once.

    SIGTERM is deferred however often it comes: schedulers announce the end of a job's time by it.
    """
    global _deferred
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, _deferred = _deferred, _Deferred()
    handler = _deferred.on_signal
    former = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _deferred = outer
        for number, before in former.items():
            signal.signal(number, before)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Let signals interrupt the block at once: it must be safe to abandon at any moment."""
    deferred = _deferred
    if deferred is None:
        yield
        return
    outer, deferred.at_once = deferred.at_once, True
    try:
        check()
        yield
    finally:
        deferred.at_once = outer


def check() -> None:
    """Raise Stopped if a signal was deferred. Call it wherever a run can stop."""
    if _deferred is not None and _deferred.received:
        raise Stopped
