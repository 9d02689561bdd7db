"""What a kill can leave: every state that a folder goes through while a process works in it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TRACE_ME, TO_NEXT_CALL, SET_OPTIONS = 0, 24, 0x4200
KILL_WITH_TRACER = 1 << 20
Files = dict[str, bytes]


def files_of(folder: Path) -> Files:
    """The names and contents of a folder's files."""
    found = {}
    with contextlib.suppress(FileNotFoundError):  # the folder is not there yet
        for entry in filter(os.DirEntry.is_file, os.scandir(folder)):
            found[entry.name] = Path(entry.path).read_bytes()
    return found


def states(work: Callable[[], None], folder: Path) -> Iterator[Files]:
    """Run `work` in a process of its own, stopped before and after each of its system calls.

    A process that is killed leaves its folder as it is at one of these stops: those where the folder differs
    from the stop before are given. Leaving the loop kills the process where it is.
    """
    child, before = _traced(work), None
    try:
        while os.WIFSTOPPED(status := _to_next_call(child)):
            now = files_of(folder)
            if now != before:
                yield now
            before = now
    except GeneratorExit:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    assert status == 0, "the process failed"


def _traced(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            _ptrace(TRACE_ME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    if not os.WIFSTOPPED(os.waitpid(child, 0)[1]):
        pytest.skip("processes cannot be traced here")
    _ptrace(SET_OPTIONS, child, KILL_WITH_TRACER)
    return child


def _to_next_call(child: int) -> int:
    """The status with which it stops there, or has ended."""
    _ptrace(TO_NEXT_CALL, child)
    return os.waitpid(child, 0)[1]


def _ptrace(request: int, process: int, value: int = 0) -> None:
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.argtypes = [ctypes.c_long] * 4
    if call(request, process, 0, value) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
