"""Run a command on several processes of this machine, with one error message and one Ctrl-C for all of them.

The children are in their own process groups, so that the terminal's Ctrl-C reaches them only through this
process, and they may take as long as they need to save; torch's launchers kill them after 30 seconds.
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
from collections.abc import Callable, Iterator, Sequence
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
GRACE_S = 10.0  # time for the others to end after a process has failed
STOP_GRACE_S = 1.5  # the same after a forwarded signal: each process saves before the first one ends
MIN_PROCESSES = 4  # that any machine may start
LOG_TAIL = 4000  # characters shown of a crashed process's log
LOST_CONNECTION = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "NCCL", "gloo")


class CommandLine(NamedTuple):
    """The command that this process runs, for starting it again in other processes."""

    main: Callable[[Sequence[str]], None]
    arguments: tuple[str, ...]


command_line: ContextVar[CommandLine] = ContextVar("command_line")


class Failure(NamedTuple):
    """The error that a process reported."""

    rank: int
    message: str  # empty: it crashed, see its log
    restart: tuple[str, ...] = ()  # arguments that let the command continue


class Ending(NamedTuple):
    """The joint result of all processes."""

    exit_code: int
    failure: Failure | None = None


_failures: Any = None  # in a child process: the queue of its failures


def run_on(processes: int | None, device: str | None = None) -> None:
    """Return in the processes that do the command's work; call this first.

    If `processes` is above 1, start that many with the same command line and exit with their exit code. Raises
    VactkError with the error that one of them reports, and if the machine has fewer GPUs, or far fewer CPUs.
    """
    world = os.environ.get("WORLD_SIZE")
    if world is not None:
        if processes is not None and processes != int(world):
            raise VactkError(f"this is one of {world} processes of a launch: leave out --processes")
        return
    if processes is None or processes == 1:
        return
    _check_count(processes, device)
    command = command_line.get()
    ending = _launch(processes, command)
    while ending.failure is not None and ending.failure.restart:
        typer.echo(ending.failure.message, err=True)
        restart = (*command.arguments, *ending.failure.restart)
        ending = _launch(processes, command._replace(arguments=restart))
    if ending.failure is not None:
        raise VactkError(ending.failure.message)
    raise typer.Exit(ending.exit_code)


def report(error: VactkError) -> None:
    """Print a user's error on stderr; a child process sends it to its parent, which prints the first one."""
    if _failures is not None:
        restart = error.arguments if isinstance(error, RestartError) else ()
        _failures.put(Failure(int(os.environ["RANK"]), str(error), restart))
        return
    for line in str(error).splitlines():
        typer.echo(f"Error: {line}", err=True)


def report_interrupt(interrupt: KeyboardInterrupt) -> None:
    """Print that the command was interrupted, from the main process only."""
    if is_main_process():
        typer.echo(f"Interrupted: {interrupt}" if str(interrupt) else "Interrupted", err=True)


def _check_count(processes: int, device: str | None) -> None:
    if os.name == "nt":
        raise VactkError("--processes needs Linux or macOS; on Windows, start vactk with torchrun")
    num_gpus = 0
    if device != "cpu":
        import torch

        num_gpus = torch.cuda.device_count()
    if 0 < num_gpus < processes:
        raise VactkError(
            f"--processes {processes} needs a GPU per process, this machine has {num_gpus}; --device cpu uses none"
        )
    num_cpus = _count_cpus()
    most = max(MIN_PROCESSES, 2 * num_cpus)
    if not num_gpus and processes > most:
        raise VactkError(
            f"--processes {processes} are too many for {num_cpus} CPUs: use at most {most}, best {num_cpus}"
        )


def _count_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _launch(world: int, command: CommandLine) -> Ending:
    from torch.distributed import TCPStore  # the rendezvous of the processes, on a free port

    store = TCPStore("127.0.0.1", 0, world, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    parent = this_process("spawn")
    failures = context.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="vactk-") as folder:
        logs = [Path(folder, f"{rank}.log") for rank in range(world)]
        children = [
            context.Process(
                target=_child, args=(parent, rank, world, store.port, command, failures, str(logs[rank]))
            )
            for rank in range(world)
        ]
        with _forwarding(children) as forwarded:
            with signals_held():
                for child in children:
                    child.start()
            codes, failed = _wait(children, failures, forwarded)
        return _ending(codes, failed, logs, bool(forwarded))


def _child(
    parent: Parent, rank: int, world: int, port: int, command: CommandLine, failures: Any, log: str
) -> None:
    global _failures
    try:
        end_with(parent)
        os.setpgid(0, 0)
        hear_signals()
        _failures = failures
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _count_cpus() // world)))
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
        os.environ.update({name: str(value) for name, value in {**ranks, **address}.items()})
        if sys.platform == "linux":  # all processes are on this machine
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        if rank:
            _write_to(log)
        command.main(command.arguments)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not _is_lost_connection(error):
            traceback.print_exc()
            failures.put(Failure(rank, ""))
        sys.exit(FAILED)


def _write_to(log: str) -> None:
    """Redirect stdout and stderr of this process to a file; only rank 0 writes to the terminal."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())


def _is_lost_connection(error: Exception) -> bool:
    """Return whether this process failed only because another one did."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST_CONNECTION)


@contextlib.contextmanager
def _forwarding(children: Sequence[Any]) -> Iterator[list[int]]:
    """Forward SIGINT and SIGTERM to the children; yields the list of forwarded signals."""
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
    """Return the exit codes, 0 for processes terminated here, and the failures that they reported.

    When one fails or is interrupted the others would wait for it forever, so they are terminated.
    """
    failed: list[Failure] = []
    codes: list[int] = []
    deadline_s: float | None = None
    while left := [child for child in children if child.is_alive()]:
        wait([child.sentinel for child in left], timeout=POLL_S)
        while not failures.empty():
            failed.append(failures.get())
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
        failed.append(failures.get())
    return codes or [child.exitcode or 0 for child in children], failed


def _ending(
    codes: Sequence[int], failed: Sequence[Failure], logs: Sequence[Path], interrupted: bool
) -> Ending:
    reported = next((failure for failure in failed if failure.message), None)
    if reported is not None:
        return Ending(FAILED, reported)
    if failed:
        rank = failed[0].rank
        if rank:
            typer.echo(_tail(logs[rank]), err=True)
        return Ending(
            FAILED, Failure(rank, f"process {rank} of {len(codes)} failed: see the traceback above")
        )
    if interrupted or INTERRUPTED in codes:
        return Ending(INTERRUPTED if any(codes) else 0)
    first = codes.index(min(codes))  # killed by a signal (negative); the others then lost the connection
    if codes[first] >= 0:
        return Ending(max(codes))
    cause = signal.Signals(-codes[first]).name
    reason = f"process {first} of {len(codes)} was killed by {cause}; is there enough memory?"
    return Ending(FAILED, Failure(first, f"{reason} Fewer --processes or a smaller --batch-size use less"))


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:] if log.exists() else ""
