"""EP1's random halves of the classes, against the draws that Open-VCLIP released."""

from __future__ import annotations

import json

import pytest

from tests.data.annotation_formats import read_annotations
from tests.data.trees import listed_tree
from vactk.data.annotations.classes import match_key
from vactk.data.class_subsets import random_halves
from vactk.evaluate.protocol import find_protocol
from vactk.evaluate.protocol_splits import load_protocol_data

OFFICIAL = {"hmdb51": "hmdb51 official split folder", "ucf101": "ucf101 official split folder"}


@pytest.mark.fixtures("recipe_ep1_draws")
def test_the_seed_gives_the_released_halves(case):
    config, recorded = case.config, json.loads((case.folder / "draws.json").read_text())
    halves = random_halves(config["classes"], config["draws"], config["seed"])
    assert [list(half) for half in halves] == [draw["indices"] for draw in recorded["draws"]]
    for half, draw in zip(halves, recorded["draws"], strict=True):
        names = {match_key(recorded["order"][number]) for number in half}
        assert names == {match_key(label) for label in draw["classes"]}
        assert len(half) == config["drawn"]


@pytest.mark.fixtures("recipe_ep1_draws")
def test_the_protocol_measures_the_released_classes_and_videos(case, data_dir, tmp_path):
    config, recorded = case.config, json.loads((case.folder / "draws.json").read_text())
    protocol = find_protocol(f"{config['dataset']}/ep1")
    if (protocol.seed, protocol.draws) != (config["seed"], config["draws"]):
        pytest.skip("drawn with another seed than the protocol's")
    sets = json.loads((data_dir / "expected.json").read_text())["annotations"]
    lists = [item for item in sets if item["format"] == OFFICIAL[config["dataset"]]]
    if not lists:
        pytest.skip(f"no official lists of {config['dataset']} here")
    source = data_dir / lists[0]["path"]
    annotations = read_annotations(source, f"{config['dataset']}-splits")
    plan = load_protocol_data(protocol, listed_tree(tmp_path / "data", source, annotations))
    assert len(plan.splits) == config["draws"]
    for found, draw in zip(plan.splits, recorded["draws"], strict=True):
        names = {match_key(plan.videos.classes[number]) for number in found.classes}
        assert names == {match_key(label) for label in draw["classes"]}
        assert len(found.records) == draw["videos"]
    assert plan.notes == ()
