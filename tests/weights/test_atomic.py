"""Files that are there whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from vactk.errors import VactkError
from vactk.weights.atomic import atomic_path, remove_leftovers, write_text


def killed_while_writing(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    write_text(tmp_path / "notes.txt", "before")
    child = multiprocessing.get_context("fork").Process(
        target=killed_while_writing, args=(tmp_path / "notes.txt",)
    )
    child.start()
    child.join()
    (left,) = tmp_path.glob(".*.tmp")
    (tmp_path / ".mine.tmp").write_text("not ours")
    elsewhere = left.name.replace(f"-{child.pid}.", f"-{os.getpid()}.")
    (tmp_path / elsewhere).write_text("of a process that is alive")
    other_host = left.name.replace(f"-{child.pid}.", f"x-{child.pid}.").replace(".txt.", ".txt.abcdef")
    (tmp_path / other_host).write_text("of another machine")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", ".mine.tmp", elsewhere, other_host}
    assert (tmp_path / "notes.txt").read_text() == "before"


def test_whatever_goes_wrong_the_former_content_stays(tmp_path):
    path = tmp_path / "notes.txt"
    write_text(path, "before")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    with (
        pytest.raises(VactkError, match=r"cannot write '.*notes.txt': No space left; free some space"),
        atomic_path(path),
    ):
        raise OSError(28, "No space left")
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1
