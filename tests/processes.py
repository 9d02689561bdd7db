"""Runs a function in several processes at once that are one another's peers, as a launch makes them."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

import torch
from accelerate.state import AcceleratorState

TIMEOUT_S = 60.0


def run_processes(world: int, function: Callable[[int], Any]) -> list[Any]:
    """`function(rank)` in each of `world` forked processes; what they return, by rank.

    Raises AssertionError with the traceback of one that failed, and where one does not end.
    """
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [context.Pipe(duplex=False) for _ in range(world)]
    children = [
        context.Process(target=_run, args=(rank, world, port, function, pipes[rank][1]))
        for rank in range(world)
    ]
    for child in children:
        child.start()
    try:
        results: dict[int, Any] = {}
        ends = {ours: rank for rank, (ours, _) in enumerate(pipes)}
        while len(results) < world:
            ready = wait([end for end, rank in ends.items() if rank not in results], timeout=TIMEOUT_S)
            assert ready, f"processes hang; those that ended: {sorted(results)} of {world}"
            for end in ready:
                value, failure = end.recv()
                assert failure is None, f"process {ends[end]} of {world}:\n{failure}"
                results[ends[end]] = value
        return [results[rank] for rank in range(world)]
    finally:
        for child in children:
            child.kill()
            child.join()


def _run(rank: int, world: int, port: int, function: Callable[[int], Any], pipe: Any) -> None:
    os.environ.update(
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    )
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(TIMEOUT_S - 5, file=sys.__stderr__)  # where it hangs, if it does
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        pipe.send((function(rank), None))
    except BaseException:  # all of it goes to the test
        pipe.send((None, traceback.format_exc()))
    finally:
        time.sleep(TIMEOUT_S)  # until all have answered and are killed: peers may still be listening
        os._exit(0)  # nothing of the test's own process ends here
