"""The user's folders: by our variables, by those of the system, and its usual ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vactk.files.paths import cache_folder, config_path


def test_our_variables_come_first(monkeypatch, tmp_path):
    monkeypatch.setenv("VACTK_CACHE", str(tmp_path))
    monkeypatch.setenv("VACTK_CONFIG", "~/mine.yaml")
    assert cache_folder() == tmp_path
    assert config_path() == Path.home() / "mine.yaml"


@pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux")
def test_then_those_of_the_system_and_its_usual_folders(monkeypatch, tmp_path):
    monkeypatch.delenv("VACTK_CACHE", raising=False)
    monkeypatch.delenv("VACTK_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert cache_folder() == tmp_path / "cache" / "vactk"
    assert config_path() == tmp_path / "config" / "vactk" / "config.yaml"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "vactk"
    assert config_path() == tmp_path / ".config" / "vactk" / "config.yaml"
