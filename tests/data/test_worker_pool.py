"""Batches read by workers that hang, crash and fail: each on purpose, on items chosen by number."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.hanging import WITHIN_S, hanging, is_alive, started, wait_until
from vactk import child_processes
from vactk.child_processes import this_process
from vactk.data import worker_pool
from vactk.data.worker_pool import BatchLoader, fit_memory, usable_processors
from vactk.errors import VactkError


class Out(NamedTuple):
    values: Tensor
    notes: list[str]


class Numbers:
    """Items that are their own key; some hang, crash or raise."""

    def __init__(
        self,
        hang: Sequence[int] = (),
        crash: Sequence[int] = (),
        raises: Sequence[int] = (),
        how: int = signal.SIGSEGV,
        once: Path | None = None,
    ) -> None:
        self.hang, self.crash, self.raises, self.how, self.once = hang, crash, raises, how, once

    def __getitem__(self, key: int) -> tuple[int, str]:
        if key in self.hang:
            time.sleep(60)
        if key in self.crash and (self.once is None or not self.once.exists()):
            if self.once is not None:
                self.once.touch()
            faulthandler.disable()  # pytest's report of each crash
            os.kill(os.getpid(), self.how)
        if key in self.raises:
            raise KeyError(f"a mistake at {key}")
        return key, ""

    def failed(self, key: int, reason: str) -> tuple[int, str]:
        return key, reason


def collate(items: list[tuple[int, str]]) -> Out:
    read = [float(key) for key, reason in items if not reason]
    return Out(torch.tensor(read), [f"{key}: {reason}" for key, reason in items if reason])


def batches(num: int, size: int = 3) -> list[list[int]]:
    return [list(range(start, min(num, start + size))) for start in range(0, num, size)]


def read(source: Numbers, num: int = 30, *, num_workers: int = 2, timeout_s: float = 60) -> list[Out]:
    return list(BatchLoader(source, batches(num), collate, workers=num_workers, timeout_s=timeout_s))


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_batches_come_whole_and_in_order(num_workers, shared, monkeypatch):
    monkeypatch.setattr(worker_pool, "fit_memory", lambda count, size: (count, shared))
    found = read(Numbers(), num_workers=num_workers)
    assert [out.values.tolist() for out in found] == batches(30)


def test_an_item_that_hangs_is_given_up_and_all_others_come():
    found = read(Numbers(hang=(4, 5)), timeout_s=0.5)
    assert [out.notes for out in found if out.notes] == [
        ["4: reading it took over 0.5 s", "5: reading it took over 0.5 s"]
    ]
    assert sorted(value for out in found for value in out.values.tolist()) == [
        n for n in range(30) if n not in (4, 5)
    ]


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_kills_a_worker_and_not_the_run(how):
    found = read(Numbers(crash=(0, 11, 29), how=how))
    notes = [note for out in found for note in out.notes]
    assert notes == [f"{key}: the decoder crashed ({how.name})" for key in (0, 11, 29)]
    assert sum(len(out.values) for out in found) == 27


def test_a_crash_that_does_not_come_again_costs_nothing(tmp_path):
    found = read(Numbers(crash=(7,), once=tmp_path / "crashed"))
    assert [out.values.tolist() for out in found] == batches(30)


def test_workers_ended_for_want_of_memory_end_the_run_and_blame_no_video():
    with pytest.raises(VactkError, match=r"ended from outside \(SIGKILL\); is there enough memory"):
        read(Numbers(crash=(3,), how=signal.SIGKILL))


def test_a_mistake_in_the_code_is_not_a_broken_video():
    with pytest.raises(RuntimeError, match="a mistake at 8"):
        read(Numbers(raises=(8,)))
    with pytest.raises(KeyError):
        read(Numbers(raises=(8,)), num_workers=0)


def test_workers_that_are_started_anew_read_the_same(monkeypatch):
    """As on systems, and in later versions of Python, where processes are not forked."""
    context = torch.multiprocessing.get_context("spawn")
    monkeypatch.setattr(torch.multiprocessing, "get_context", lambda: context)
    assert [out.values.tolist() for out in read(Numbers(), 6, num_workers=1)] == batches(6)


def test_leaving_early_ends_the_workers():
    reader = iter(BatchLoader(Numbers(), batches(3000), collate, workers=2, timeout_s=60))
    next(reader)
    children = set(torch.multiprocessing.active_children())
    assert children
    reader.close()
    assert not any(child.is_alive() for child in children)


@pytest.mark.parametrize("by", ["signal", "pipe"])
def test_workers_that_hang_end_with_a_parent_that_is_killed(by, tmp_path, monkeypatch):
    if by == "pipe":
        monkeypatch.setattr(
            child_processes, "_ask_for_signal", lambda: False
        )  # as on other systems than Linux

    def wait_for_ever():
        list(BatchLoader(Numbers(), batches(99), collate, workers=3, timeout_s=600))

    with started(wait_for_ever, tmp_path / "hangs", healthy=1):  # killed at its end
        crew = hanging(tmp_path / "hangs", 3)
        assert all(map(is_alive, crew))
    wait_until(lambda: not any(map(is_alive, crew)), WITHIN_S)


@pytest.mark.parametrize("is_main", [True, False])
def test_the_signal_is_asked_for_by_the_thread_that_lasts(is_main):
    """Linux ends children with the thread that started them, which may end long before the process."""
    with ThreadPoolExecutor(1) as pool:
        for method in ("fork", "spawn"):
            found = this_process(method) if is_main else pool.submit(this_process, method).result()
            assert (found.pid, found.signals) == (os.getpid(), is_main)
    assert not this_process("forkserver").signals  # the server would be the parent


def test_what_goes_through_shared_memory_fits_it(monkeypatch):
    monkeypatch.setattr(
        worker_pool.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 64 * 2**20})
    )
    assert fit_memory(8, 2**20) == (8, True)
    assert fit_memory(8, 3 * 2**20) == (5, True)  # fewer workers, rather than slower ones
    assert fit_memory(8, 100 * 2**20) == (8, False)

    def absent(path: str) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(worker_pool.shutil, "disk_usage", absent)
    assert fit_memory(8, 2**40) == (8, True)


def test_processes_of_one_launch_share_out_the_processors(monkeypatch):
    alone = usable_processors()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(2 * alone))
    assert usable_processors() == 1
