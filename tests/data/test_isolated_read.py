from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from tests.retrieval.pages import all_end
from vactk.data import isolated_read
from vactk.data.isolated_read import IsolatedReader, LostError, read_isolated
from vactk.errors import VactkError
from vactk.video.container import VideoError

VIDEO = Path("a.mp4")


def hang(video: Path) -> None:
    time.sleep(60)


def crash(video: Path) -> None:
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def fail(video: Path) -> None:
    raise VideoError(video, "it is a folder")


def fill_the_disk(video: Path) -> None:
    raise VactkError("cannot write 'x'")


def hang_with_the_lock() -> None:
    """Never come back to Python, so that no other thread of this process runs either."""
    ctypes.PyDLL(None).pause()


def nap() -> int:
    time.sleep(0.3)
    return os.getpid()


def crash_once(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        crash(VIDEO)
    return "read"


def process_of(video: Path) -> tuple[Path, int]:
    return video, os.getpid()


@pytest.fixture(scope="module")
def shared() -> Iterator[IsolatedReader]:
    """Processes that are not forked from this one."""
    with IsolatedReader(preload=[__name__]) as reader:
        yield reader


def test_the_answer_comes_from_another_process_which_is_gone():
    video, process = read_isolated(process_of, VIDEO)
    assert video == VIDEO
    assert process != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.mark.parametrize(
    ("read", "kind", "message"),
    [
        (hang, VideoError, r"'a\.mp4': reading it took over 0\.5 s"),
        (crash, VideoError, r"'a\.mp4': the decoder crashed \(SIGSEGV\)"),
        (fail, VideoError, r"^cannot read video 'a\.mp4': it is a folder$"),
        (fill_the_disk, VactkError, "cannot write 'x'"),
    ],
)
def test_what_hangs_crashes_or_fails_is_an_error_here(read, kind, message):
    started_s = time.monotonic()
    with pytest.raises(kind, match=message):
        read_isolated(read, VIDEO, timeout_s=0.5 if read is hang else 60)
    assert time.monotonic() - started_s < 10


def test_processes_serve_all_threads_and_stay_until_they_are_lost(shared):
    with ThreadPoolExecutor(3) as threads:
        naps = [threads.submit(shared.call, VIDEO, nap, timeout_s=60) for _ in range(3)]
        processes = {nap.result() for nap in naps}
    assert len(processes) == 3
    assert shared.call(VIDEO, nap, timeout_s=60) in processes
    with ThreadPoolExecutor(3) as threads:
        hung = [threads.submit(shared.call, VIDEO, hang, VIDEO, timeout_s=0.3) for _ in range(3)]
        assert all(isinstance(one.exception(), LostError) for one in hung)
    assert shared.call(VIDEO, nap, timeout_s=60) not in processes


def test_a_crash_that_does_not_come_again_costs_nothing(shared, tmp_path):
    assert shared.call(VIDEO, crash_once, tmp_path / "crashed", timeout_s=60) == "read"
    with pytest.raises(LostError, match=r"crashed \(SIGSEGV\)"):
        shared.call(VIDEO, crash, VIDEO, timeout_s=60)


def test_errors_come_as_they_are_and_mistakes_with_where_they_were_made(shared):
    with pytest.raises(VideoError, match="it is a folder") as found:
        shared.call(VIDEO, fail, VIDEO, timeout_s=60)
    assert not isinstance(found.value, LostError)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        shared.call(VIDEO, divmod, 1, 0, timeout_s=60)


def test_closing_ends_calls_under_way_and_refuses_others():
    with IsolatedReader(preload=[__name__]) as reader, ThreadPoolExecutor(2) as threads:
        hung = [threads.submit(reader.call, VIDEO, hang_with_the_lock, timeout_s=60) for _ in range(2)]
        time.sleep(0.2)
        started_s = time.monotonic()
        reader.close()
        for one in (*hung, threads.submit(reader.call, VIDEO, nap, timeout_s=60)):
            with pytest.raises(LostError, match="the program is ending"):
                one.result()
        assert time.monotonic() - started_s < 5


def never_ready(self: object, timeout_s: float) -> None:
    """As of a process that does not come to an end of loading its modules."""
    wait([self.process.sentinel], timeout_s)  # type: ignore[attr-defined]
    raise EOFError


def test_closing_ends_processes_that_are_still_starting(monkeypatch):
    with IsolatedReader() as reader, ThreadPoolExecutor(1) as threads:
        monkeypatch.setattr(isolated_read._Process, "_receive", never_ready)
        starting = threads.submit(reader.call, VIDEO, nap, timeout_s=60)
        time.sleep(0.2)
        assert not starting.done()
        started_s = time.monotonic()
        reader.close()
        with pytest.raises(LostError, match="the program is ending"):
            starting.result()
        assert time.monotonic() - started_s < 5


KILLED = """
import threading, time
from tests.data.test_isolated_read import VIDEO, IsolatedReader, hang_with_the_lock, process_of
for reader in (IsolatedReader(), IsolatedReader(preload=["tests.data.test_isolated_read"])):
    print(reader.call(VIDEO, process_of, VIDEO, timeout_s=60)[1], flush=True)
    call = lambda reader=reader: reader.call(VIDEO, hang_with_the_lock, timeout_s=60)
    threading.Thread(target=call, daemon=True).start()
time.sleep(0.3)
print("hanging", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")
def test_processes_end_with_one_that_is_killed_even_while_they_hang():
    command, root = [sys.executable, "-c", KILLED], Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        pids = {int(process.stdout.readline()) for _ in range(2)}
        assert process.stdout.readline() == "hanging\n"
        assert not all_end(pids, 0)
        process.kill()
        assert all_end(pids, 9)
