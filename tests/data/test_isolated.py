from __future__ import annotations

import faulthandler
import os
import signal
import time
from pathlib import Path

import pytest

from vactk.data.isolated import read_isolated
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


def process_of(video: Path) -> tuple[Path, int]:
    return video, os.getpid()


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
