from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.data import trees
from tests.data.annotation_formats import read_annotations
from vactk.data.benchmarks import BENCHMARKS
from vactk.data.class_subsets import sample_shots
from vactk.data.datasets import find_dataset
from vactk.data.records import Record, VideoSet
from vactk.errors import VactkError

CLASSES = ("run", "jump", "wave")


def videos(*sizes):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    records = tuple(Record(video=Path(f"{i}.mp4"), label=label) for i, label in enumerate(labels))
    return VideoSet(name="d", split="train", classes=CLASSES, words=CLASSES, records=records)


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_every_class_gets_as_many_videos(shots):
    drawn = sample_shots(videos(9, 5, 30), shots, seed=3)
    assert Counter(record.label for record in drawn.records) == {0: shots, 1: shots, 2: shots}
    assert len(set(drawn.records)) == 3 * shots
    assert drawn.classes == CLASSES


def test_a_seed_draws_the_same_videos_and_fewer_shots_are_a_part_of_more():
    everything = videos(20, 20, 20)
    eight = sample_shots(everything, 8, seed=1)
    assert sample_shots(everything, 8, seed=1) == eight
    assert sample_shots(everything, 8, seed=2) != eight
    assert set(sample_shots(everything, 2, seed=1).records) < set(eight.records)


def test_a_class_with_too_few_videos_is_named():
    with pytest.raises(
        VactkError, match="1 classes of d/train have fewer, such as 'jump'; the most possible is 3"
    ):
        sample_shots(videos(9, 3, 9), 4, seed=0)


def test_vificlips_lists_are_trained_on_with_the_classes_of_the_official_split(tmp_path):
    root = trees.hmdb51(tmp_path / "hmdb51")
    train = find_dataset("hmdb51").load("train1", root=root).records
    lists = root / "hmdb_splits"
    lists.mkdir()
    names = [f"{record.name}.avi" for record in (train[4], train[0], train[2])]
    numbers = (1, 0, 2)  # of kick_ball and kick the other way round, as published
    text = "".join(f"{name} {number}\n" for name, number in zip(names, numbers, strict=True))
    (lists / "train1_few_shot_1.txt").write_text(text)
    (lists / "fs_base_s1_train.txt").write_text(text.replace(names[1], "elsewhere.avi"))
    (lists / "train1_few_shot_2.txt").write_text("v_YoYo_g01_c01.avi 100\n")  # of UCF101
    dataset = find_dataset("hmdb51/few-shot-1")
    videos = dataset.load(dataset.train_split, root=root)
    assert [videos.classes[record.label] for record in videos.records] == ["kick_ball", "brush_hair", "kick"]
    assert dataset.eval_splits == ("test1",)
    base = find_dataset("hmdb/base-s1")
    videos = base.load(base.train_split, root=root)
    assert (videos.classes, [r.label for r in videos.records]) == (("kick", "kick_ball"), [1, 0])
    assert any(
        "lists 1 videos that are not in train1, such as 'elsewhere'" in line for line in videos.report.lines()
    )
    with pytest.raises(
        VactkError, match=r"hmdb51 lacks the split 'few-shot-2'; put ViFi-CLIP's train1_few_shot_2.txt"
    ):
        find_dataset("hmdb51/few-shot-2").load("few-shot-2", root=root)


def test_vificlips_own_lists_are_within_the_official_splits(data_dir, tmp_path):
    folder = data_dir / "annotations/vificlip/datasets_splits"
    checked = 0
    for name, stem, official in (
        ("hmdb51", "hmdb_splits", "annotations/hmdb51/testTrainMulti_7030_splits"),
        ("ucf101", "ucf_splits", "annotations/ucf101/ucfTrainTestlist"),
    ):
        if not (data_dir / official).is_dir() or not (folder / stem).is_dir():
            continue
        annotations = read_annotations(data_dir / official, f"{name}-splits")
        root = trees.listed_tree(tmp_path / name, data_dir / official, annotations, beside=[folder])
        found = BENCHMARKS[name].open(root).annotations
        for path in sorted((folder / stem).glob("train1_few_shot_*.txt")):
            shots = int(path.stem.rpartition("_")[2])
            listed = found.splits[f"few-shot-{shots}"]
            counts = Counter(entry.label for entry in listed)
            assert counts == dict.fromkeys(found.classes, shots)
            checked += 1
        for path in (folder / "base2novel_splits" / stem).glob("fs_base_s*_train.txt"):
            split = f"base-s{path.stem.split('_')[2][1:]}"
            base = {found.classes[number] for number in BENCHMARKS[name].halves(root)[0]}
            assert {entry.label for entry in found.splits[split]} == base
            checked += 1
        assert found.problems == annotations.problems
    if not checked:
        pytest.skip("no lists of ViFi-CLIP here")
