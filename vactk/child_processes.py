"""Child processes that end with their parent, in whatever way it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM)
FROM_THE_PARENT = ("fork", "spawn")  # start methods; a fork server would be the parent otherwise


@dataclass(frozen=True)
class Parent:
    """The parent, as a child process needs to know it."""

    pid: int
    signals: bool  # whether the system can signal the parent's end to the child
    lifeline: Connection  # reads end-of-file once the parent has ended


@dataclass(frozen=True)
class _Lifeline:
    """A pipe that its process keeps open as long as it lives."""

    pid: int
    reading: Connection
    writing: Connection


_lock = threading.Lock()
_lifeline: _Lifeline | None = None


def this_process(start_method: str) -> Parent:
    """Return this process as the parent of one that the calling thread starts by `start_method`.

    Linux ties the signal to the thread that starts a child: only the main one lives as long as its process.
    """
    global _lifeline
    with _lock:
        if _lifeline is None or _lifeline.pid != os.getpid():
            _lifeline = _Lifeline(os.getpid(), *Pipe(duplex=False))
    is_main = threading.current_thread() is threading.main_thread()
    return Parent(os.getpid(), is_main and start_method in FROM_THE_PARENT, _lifeline.reading)


def end_with(parent: Parent) -> None:
    """End this process as soon as `parent` ends. Call it first of all in the child."""
    if _lifeline is not None and _lifeline.pid != os.getpid():
        _lifeline.writing.close()  # inherited by forking: it would keep the pipe open
    if parent.signals and sys.platform == "linux" and _ask_for_signal():
        if os.getppid() != parent.pid:  # it ended before the system was asked for the signal
            os._exit(1)
        return
    if sys.platform == "linux":
        _be_killed_at_the_end_of(parent.lifeline)
    else:
        threading.Thread(target=_watch, args=(parent.lifeline,), daemon=True).start()


def begin_worker(parent: Parent) -> None:
    """End this process with `parent`, and by SIGTERM; leave Ctrl-C, which reaches it too, to the parent."""
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever the parent installed
    hear_signals()


def end_with_launcher() -> None:
    """Have this process end with torchrun or `accelerate launch`, where one of them started it; Linux alone can."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        _ask_for_signal()


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM, also in children started inside until they call `hear_signals`."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def hear_signals() -> None:
    """Unblock the signals that were blocked when this process was started."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _ask_for_signal() -> bool:
    return ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0


def _be_killed_at_the_end_of(lifeline: Connection) -> None:
    """By the system: a thread that watches does not run while a decoder hangs and keeps Python's lock."""
    import fcntl  # not on Windows

    # opened anew, for who is told of a pipe's end belongs to the opening, which all children share otherwise
    own = os.open(f"/proc/self/fd/{lifeline.fileno()}", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, int(signal.SIGKILL))
    fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    with contextlib.suppress(BlockingIOError):
        os.read(own, 1)
        os._exit(1)  # it ended before the system was asked


def _watch(lifeline: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)
