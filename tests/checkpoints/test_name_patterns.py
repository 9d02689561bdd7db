from __future__ import annotations

import pytest

from vactk.checkpoints.name_patterns import select_by_pattern
from vactk.errors import VactkError

NAMES = [
    "clip.visual.proj",
    "clip.visual.transformer.resblocks.0.attn.in_proj_weight",
    "clip.visual.transformer.resblocks.11.mlp.c_fc.weight",
    "temporal.0.pre_mlp_adapter.up.weight",
    "clip.transformer.resblocks.0.mlp.c_fc.weight",
    "clip.text.transformer.resblocks.1.mlp.c_fc.weight",
    "text_adapters.1.pre_mlp_adapter.fc1.weight",
    "clip.logit_scale",
    "class_head.fc.weight",
]


@pytest.mark.parametrize(
    ("part", "places"),
    [
        ("vision", [0, 1, 2, 3]),
        ("text", [4, 5, 6, 7]),
        ("heads", [8]),
        ("vision.0", [1, 3]),
        ("vision.1-11", [2]),
        ("text.0-1", [4, 5, 6]),
        ("*.mlp.*", [2, 4, 5]),
        ("clip.logit_scale", [7]),
    ],
)
def test_parts_by_name(part, places):
    assert list(select_by_pattern({part: 0.5}, NAMES)) == [NAMES[i] for i in places]


def test_later_parts_win():
    values = select_by_pattern({"vision": 0.5, "vision.0": 1.0}, NAMES)
    assert values[NAMES[0]] == 0.5
    assert values[NAMES[1]] == 1.0


@pytest.mark.parametrize("part", ["vision.12", "vison", "visual.*"])
def test_parts_without_tensors_are_refused(part):
    with pytest.raises(
        VactkError, match=f"no tensor of these checkpoints matches '{part}'".replace("*", r"\*")
    ):
        select_by_pattern({part: 0.5}, NAMES)
