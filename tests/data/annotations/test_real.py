"""Every annotation set of `--data` reads as its expected.json says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.annotation_formats import FORMATS, read_annotations
from vactk.data.annotations.classes import ClassIndex, read_classes
from vactk.data.annotations.entries import Annotations, labels_of
from vactk.data.annotations.lists import read_list
from vactk.data.annotations.ssv2 import read_ssv2_labels, read_ssv2_list

# expected.json's words for a format -> vactk's
NAMES = {
    "hmdb51 official split folder": "hmdb51-splits",
    "ucf101 official split folder": "ucf101-splits",
    "kinetics csv": "kinetics-csv",
    "kinetics json": "kinetics-json",
    "class list, one per line": "classes",
    "id,name class table": "classes",
    "class index json": "classes",
    "something-something labels": "ssv2-labels",
    "something-something list": "ssv2-list",
    "something-something answers": "ssv2-answers",
    "msr-vtt csv": "msrvtt-csv",
    "msr-vtt json": "msrvtt-json",
    "path,label (last comma separates)": "comma-list",
    "path label (last blank separates)": "blank-list",
}


NOT_READ = {"word index table"}  # M2-CLIP's vocabulary: vactk makes its own of the class names


def sets(config: pytest.Config) -> list[dict]:
    path = config.getoption("--data") / "expected.json"
    found = json.loads(path.read_text())["annotations"] if path.is_file() else []
    return [item for item in found if item["format"] not in NOT_READ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "annotation_set" in metafunc.fixturenames:
        found = sets(metafunc.config)
        metafunc.parametrize("annotation_set", found, ids=[item["name"] for item in found])


def read(item: dict, data: Path) -> Annotations:
    if item["format"] not in NAMES:
        pytest.fail(f"vactk does not know the format '{item['format']}' of {item['name']}")
    return read_annotations(data / item["path"], NAMES[item["format"]])


def count_splits(found: Annotations, numbers: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    return {n: {part: len(found.splits[f"{part}{n}"]) for part in parts} for n, parts in numbers.items()}


def counts(found: Annotations, expected: dict) -> dict:
    """What was found under each name that expected.json uses."""
    entries = found.entries
    distinct = labels_of(entries) if entries else found.classes
    counted = {
        "rows": len(entries) or len(found.classes),
        "classes": len(distinct),
        "words": len(found.classes),
        "videos": len(entries),
        "sentences": sum(len(entry.captions) for entry in entries),
        "splits": count_splits(found, expected.get("splits", {})),
    }
    return {name: counted[name] for name in expected if name in counted}


def test_a_set_reads_with_the_counts_it_should(annotation_set, data_dir):
    found = read(annotation_set, data_dir)
    assert counts(found, annotation_set["expect"]) == annotation_set["expect"]
    videos = [entry.video for split in found.splits.values() for entry in split]
    assert all(video == video.strip() and video for video in videos)


def test_official_splits_part_the_videos(annotation_set, data_dir):
    numbers = annotation_set["expect"].get("splits")
    if not numbers:
        pytest.skip("no official splits")
    found = read(annotation_set, data_dir)
    for number, parts in numbers.items():
        keys = [entry.key for part in parts for entry in found.splits[f"{part}{number}"]]
        assert len(set(keys)) == len(keys)
        assert set(keys) <= {entry.key for entry in found.splits["all"]}
    index = ClassIndex(found.classes, annotation_set["name"])
    assert all(index.find(entry.label) is not None for entry in found.entries)


def test_a_list_is_recognised_without_being_told_its_format(annotation_set, data_dir):
    if NAMES.get(annotation_set["format"]) not in ("comma-list", "blank-list", "kinetics-csv"):
        pytest.skip("not a list of paths and labels")
    path = data_dir / annotation_set["path"]
    if NAMES[annotation_set["format"]] == "kinetics-csv":
        assert FORMATS["kinetics-csv"](path).entries
        return
    assert read_list(path) == read(annotation_set, data_dir)


def test_every_something_something_template_is_a_class(annotation_set, data_dir):
    if NAMES.get(annotation_set["format"]) != "ssv2-list":
        pytest.skip("no list of Something-Something")
    path = data_dir / annotation_set["path"]
    tables = [
        data_dir / item["path"]
        for item in json.loads((data_dir / "expected.json").read_text())["annotations"]
        if NAMES.get(item["format"]) == "ssv2-labels" and (data_dir / item["path"]).parent == path.parent
    ]
    if not tables:
        pytest.skip("no label table beside it")
    index = ClassIndex(read_ssv2_labels(tables[0]).classes, tables[0])
    labels = labels_of(read_ssv2_list(path).entries)
    assert [label for label in labels if index.find(label) is None] == []


def test_class_tables_in_json_read_either_way(data_dir):
    tables = sorted(data_dir.glob("annotations/**/*cls2index.json"))
    tables += sorted(data_dir.glob("annotations/**/*index2cls.json"))
    if not tables:
        pytest.skip("no class tables in JSON")
    for path in tables:
        content = json.loads(path.read_text())
        by_number = (
            content if path.name.endswith("index2cls.json") else {n: name for name, n in content.items()}
        )
        assert read_classes(path) == tuple(by_number[key] for key in sorted(by_number, key=int))
