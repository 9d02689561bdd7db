"""One command on several processes of this machine: one message for an error, one Ctrl-C for all of them.

The children are in process groups of their own, so that the terminal's Ctrl-C reaches them through here alone,
and are waited for as long as they need to save; torch's own launchers end them after half a minute.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import typer

from vactk.child_processes import SIGNALS, Parent, end_with, hear_signals, signals_held, this_process
from vactk.cli.display import is_main_process
from vactk.errors import RestartError, VactkError

INTERRUPTED = 130
FAILED = 1
POLL_S = 0.5
GRACE_S = 10.0  # for the others to end, once a process has failed
STOP_GRACE_S = 1.5  # once a process has ended by a signal to all: each saves before the first ends
LOG_TAIL = 4000  # characters of what a process wrote before it crashed
LOST = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "NCCL", "gloo")

command_line: ContextVar[tuple[str, ...]] = ContextVar("command_line", default=())


class Failure(NamedTuple):
    """Why a process ended, as it says itself."""

    rank: int
    message: str  # empty: it crashed, and its log says how
    restart: tuple[str, ...] = ()  # arguments with which the command can go on


class Ending(NamedTuple):
    """How the processes ended, all together."""

    exit_code: int
    failure: Failure | None = None


_failures: Any = None  # in a process that was started here: where its failures go


def run_on(processes: int | None, device: str | None = None) -> None:
    """Return in the process or processes that are to do the work of the command; call it first.

    With `processes` above 1 these are started with the same command line, and this process leaves with their
    exit code when they have ended. Raises VactkError for what one of them reports, and where the machine has
    fewer GPUs.
    """
    world = os.environ.get("WORLD_SIZE")
    if world is not None:
        if processes is not None and processes != int(world):
            raise VactkError(f"this is one of {world} processes of a launch: leave out --processes")
        return
    if processes is None or processes == 1:
        return
    _check_gpus(processes, device)
    arguments = list(command_line.get())
    ending = _launch(processes, arguments)
    while ending.failure is not None and ending.failure.restart:
        typer.echo(ending.failure.message, err=True)
        ending = _launch(processes, [*arguments, *ending.failure.restart])
    if ending.failure is not None:
        raise VactkError(ending.failure.message)
    raise typer.Exit(ending.exit_code)


def report(error: VactkError) -> None:
    """A user's error, on stderr, or to the process that started this one: it shows the first of them."""
    if _failures is not None:
        restart = error.arguments if isinstance(error, RestartError) else ()
        _failures.put(Failure(int(os.environ["RANK"]), str(error), restart))
        return
    for line in str(error).splitlines():
        typer.echo(f"Error: {line}", err=True)


def report_interrupt(interrupt: KeyboardInterrupt) -> None:
    """A line on stderr, from the one process that reports."""
    if is_main_process():
        typer.echo(f"Interrupted: {interrupt}" if str(interrupt) else "Interrupted", err=True)


def _check_gpus(processes: int, device: str | None) -> None:
    if os.name == "nt":
        raise VactkError("--processes needs Linux or macOS; on Windows, start vactk with torchrun")
    if device == "cpu":
        return

    import torch

    count = torch.cuda.device_count()
    if 0 < count < processes:
        raise VactkError(
            f"--processes {processes}: each takes a GPU, and this machine has {count}; --device cpu goes without"
        )


def _launch(world: int, arguments: Sequence[str]) -> Ending:
    from torch.distributed import TCPStore  # the processes find each other through it, at a port that is free

    store = TCPStore("127.0.0.1", 0, world, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    parent = this_process("spawn")
    failures = context.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="vactk-") as folder:
        logs = [Path(folder, f"{rank}.log") for rank in range(world)]
        children = [
            context.Process(
                target=_child, args=(parent, rank, world, store.port, arguments, failures, str(logs[rank]))
            )
            for rank in range(world)
        ]
        with _forwarding(children) as forwarded:
            with signals_held():
                for child in children:
                    child.start()
            codes, heard = _wait(children, failures, forwarded)
        return _ending(codes, heard, logs, bool(forwarded))


def _child(
    parent: Parent, rank: int, world: int, port: int, arguments: Sequence[str], failures: Any, log: str
) -> None:  # the life of one process
    global _failures
    try:
        end_with(parent)
        os.setpgid(0, 0)
        hear_signals()
        _failures = failures
        threads = max(1, len(os.sched_getaffinity(0)) // world) if hasattr(os, "sched_getaffinity") else 1
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
        os.environ.update({name: str(value) for name, value in {**places, **address}.items()})
        if sys.platform == "linux":  # all are on this machine: nothing goes over its network
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if rank:
            _write_to(log)

        from vactk.cli.app import app

        app(arguments, prog_name="vactk")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not _is_lost_connection(error):
            traceback.print_exc()
            failures.put(Failure(rank, ""))
        sys.exit(FAILED)


def _write_to(log: str) -> None:
    """From here on what this process writes goes into a file: the first process speaks for all."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())


def _is_lost_connection(error: Exception) -> bool:
    """Whether this process failed only because another one did."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST)


@contextlib.contextmanager
def _forwarding(children: Sequence[Any]) -> Iterator[list[int]]:
    """Signals that end this process go to the children instead; the list fills with them."""
    forwarded: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        forwarded.append(number)
        for child in children:
            if child.is_alive():
                os.kill(child.pid, number)

    former = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield forwarded
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _wait(
    children: Sequence[Any], failures: Any, forwarded: Sequence[int]
) -> tuple[list[int], list[Failure]]:
    """Their exit codes, 0 for those that were ended here, and what they had to say.

    Where one fails, or is interrupted, the others would wait for it for ever: they are ended too.
    """
    heard: list[Failure] = []
    codes: list[int] = []
    deadline_s: float | None = None
    while left := [child for child in children if child.is_alive()]:
        wait([child.sentinel for child in left], timeout=POLL_S)
        while not failures.empty():
            heard.append(failures.get())
        harmless = (None, 0) if forwarded else (None, 0, INTERRUPTED)
        if deadline_s is None and any(child.exitcode not in harmless for child in children):
            codes = [child.exitcode or 0 for child in children]
            deadline_s = time.monotonic() + (STOP_GRACE_S if forwarded else GRACE_S)
            for child in left:
                child.terminate()
        elif deadline_s is not None and time.monotonic() > deadline_s:
            for child in left:
                child.kill()
    while not failures.empty():
        heard.append(failures.get())
    return codes or [child.exitcode or 0 for child in children], heard


def _ending(
    codes: Sequence[int], heard: Sequence[Failure], logs: Sequence[Path], interrupted: bool
) -> Ending:
    said = next((failure for failure in heard if failure.message), None)
    if said is not None:
        return Ending(FAILED, said)
    if heard:
        rank = heard[0].rank
        if rank:
            typer.echo(_tail(logs[rank]), err=True)
        return Ending(
            FAILED, Failure(rank, f"process {rank} of {len(codes)} failed: see the traceback above")
        )
    if interrupted or INTERRUPTED in codes:
        return Ending(INTERRUPTED if any(codes) else 0)
    first = codes.index(min(codes))  # one that a signal ended comes before those that then lost it
    if codes[first] >= 0:
        return Ending(max(codes))
    cause = signal.Signals(-codes[first]).name
    reason = f"process {first} of {len(codes)} was ended by {cause}; is there enough memory?"
    return Ending(FAILED, Failure(first, f"{reason} Fewer --processes or a smaller --batch-size need less"))


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:] if log.exists() else ""
