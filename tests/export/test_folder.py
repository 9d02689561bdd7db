from __future__ import annotations

import pytest

from vactk.errors import VactkError
from vactk.export.folder import whole_folder


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
