"""Files that are there whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from vactk.errors import VactkError
from vactk.files.atomic import atomic_path, remove_leftovers, whole_folder, write_text


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


def test_a_folder_appears_whole(tmp_path):
    with whole_folder(tmp_path / "new" / "out") as folder:
        (folder / "a").write_text("x")
        (folder / "sub").mkdir()
        (folder / "sub" / "b").write_text("y")
        assert not (tmp_path / "new" / "out").exists()
    assert (tmp_path / "new" / "out" / "sub" / "b").read_text() == "y"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_stays_of_a_failure(tmp_path, error):
    with pytest.raises(error), whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken_and_others_are_not(tmp_path):
    (tmp_path / "out").mkdir()
    with whole_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("x")
    assert (tmp_path / "out" / "a").exists()
    with (
        pytest.raises(VactkError, match="is a folder with files in it; choose another"),
        whole_folder(tmp_path / "out"),
    ):
        pass
    with pytest.raises(VactkError, match="is a file"), whole_folder(tmp_path / "out" / "a"):
        pass
