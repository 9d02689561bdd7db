from __future__ import annotations

import pytest

from tests.data import trees
from vactk.data.benchmarks import BENCHMARKS
from vactk.data.locations import data_locations
from vactk.errors import VactkError


@pytest.fixture(autouse=True)
def config(monkeypatch, tmp_path):
    path = tmp_path / "config.yaml"
    monkeypatch.setenv("VACTK_CONFIG", str(path))
    monkeypatch.delenv("VACTK_DATA", raising=False)
    monkeypatch.delenv("VACTK_DATA_HMDB51", raising=False)
    return path


def test_each_way_of_saying_where_the_data_are(tmp_path, monkeypatch, config):
    root = trees.hmdb51(tmp_path / "data" / "HMDB51")
    load = BENCHMARKS["hmdb51"].load
    assert len(load("test1", root=root).records) == 3
    assert len(load("test1", root=tmp_path / "data").records) == 3
    config.write_text(f"data: {tmp_path / 'data'}\n")
    assert len(load("test1").records) == 3
    config.write_text(f"datasets:\n  hmdb51: {root}\n")
    assert len(load("test1").records) == 3
    config.unlink()
    monkeypatch.setenv("VACTK_DATA", str(tmp_path / "data"))
    assert len(load("test1").records) == 3
    monkeypatch.setenv("VACTK_DATA_HMDB51", str(root))
    assert load("test1").records[0].video.is_relative_to(root)


def test_the_particular_comes_before_the_general_and_the_option_stands_alone(tmp_path, monkeypatch, config):
    config.write_text("data: /config/all\ndatasets: {hmdb51: /config/own}\n")
    monkeypatch.setenv("VACTK_DATA", "/env/all")
    monkeypatch.setenv("VACTK_DATA_HMDB51", "/env/own")
    found = [str(place.folder) for place in data_locations("hmdb51", ("hmdb51",))]
    assert found == ["/env/own", "/env/all", "/config/own", "/config/all"]
    assert [place.set_by for place in data_locations("hmdb51", (), tmp_path)] == ["--data-root"]


def test_a_configuration_file_that_says_anything_else_is_refused(config):
    config.write_text("dataset: /x\n")
    with pytest.raises(VactkError, match=r"config.yaml': unknown setting 'dataset'; did you mean"):
        data_locations("hmdb51", ())
    config.write_text("datasets: /x\n")
    with pytest.raises(VactkError, match="datasets must be `name: folder` lines"):
        data_locations("hmdb51", ())
