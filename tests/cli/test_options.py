"""How options become settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest

from vactk.cli import options
from vactk.cli.options import Setting
from vactk.errors import VactkError


def command(
    frames: options.Frames = None,
    temporal: options.Temporal = None,
    checkpoint: Annotated[options.Checkpoint, Setting("start")] = None,
    batch_size: Annotated[options.BatchSize, Setting("run.batch_size")] = None,
    split: options.Split = None,
    json: options.Json = False,
) -> None: ...


def given(**values):
    return dict.fromkeys(command.__annotations__) | values


def test_options_become_nested_settings():
    values = given(frames=8, temporal="{name: st_adapter}", checkpoint=Path("a"), split="test", json=True)
    assert options.read_settings(command, values) == {
        "data": {"num_frames": 8},
        "model": {"temporal": {"name": "st_adapter"}},
        "start": "a",
    }


def test_a_command_may_set_another_key_than_most():
    assert options.read_settings(command, given(batch_size=4)) == {"run": {"batch_size": 4}}


def test_the_first_contradiction_is_refused():
    options.refuse({"a": None, "b": ""})
    with pytest.raises(VactkError, match=r"^b$"):
        options.refuse({"a": False, "b": "x", "c": True})
