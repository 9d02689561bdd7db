from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.data import trees
from tests.data.annotation_formats import read_annotations
from vactk.data.annotations.classes import known_classes, match_key, read_classes
from vactk.data.benchmarks import BENCHMARKS
from vactk.data.class_subsets import base_and_novel, not_in_k400, random_halves, with_classes
from vactk.data.datasets import find_dataset
from vactk.data.file_tree import INDEX_NAME, FileTree
from vactk.errors import VactkError
from vactk.evaluate.protocol import Protocol, find_protocol, protocols, published
from vactk.evaluate.protocol_splits import content_hash, load_protocol_data


def test_every_protocol_is_of_a_benchmark_and_says_what_it_measures():
    known = protocols()
    assert {name.split("/")[0] for name in known} == set(BENCHMARKS)
    for name, protocol in known.items():
        benchmark = BENCHMARKS[protocol.dataset]
        assert protocol.name == name
        assert protocol.title
        assert protocol.source
        assert len(protocol.num_videos) in (0, max(len(protocol.splits), protocol.draws, 1), 2)
        for split, count in zip(protocol.splits, protocol.num_videos, strict=False):
            if protocol.classes == "all" and "+" not in split:
                assert count == benchmark.counts[split]


def test_published_numbers_are_of_protocols_and_say_where_they_stand():
    rows = published()
    assert {row.protocol for row in rows} <= set(protocols())
    assert all(0 < row.value < 100 and row.source and row.method for row in rows)
    keys = [(row.protocol, row.method, row.backbone, row.metric) for row in rows]
    assert len(set(keys)) == len(keys)
    means = {key: row.value for key, row in zip(keys, rows, strict=True)}
    for (protocol, method, backbone, metric), value in means.items():
        if metric == "harmonic_mean":
            base, novel = (means[protocol, method, backbone, name] for name in ("base", "novel"))
            assert 2 / (1 / base + 1 / novel) == pytest.approx(value, abs=0.11)
        halves = protocols()[protocol].classes == "base_novel"
        assert halves == (metric in ("base", "novel", "harmonic_mean"))
        assert metric.startswith("R@") == (protocols()[protocol].task == "retrieval")


def test_unknown_and_contradictory_protocols_are_refused():
    with pytest.raises(VactkError, match="unknown protocol 'hmdb51/ep4'; did you mean 'hmdb51/ep"):
        find_protocol("hmdb51/ep4")
    with pytest.raises(VactkError, match="names either splits or lists"):
        Protocol(title="x", source="y")
    with pytest.raises(VactkError, match="names class_tables"):
        Protocol(title="x", source="y", splits=("test",), classes="listed")


def test_the_two_full_sets_of_hmdb51_differ(tmp_path):
    root = trees.hmdb51(tmp_path)
    whole, split1 = (
        load_protocol_data(find_protocol(f"HMDB51/{name}"), root) for name in ("ep2", "ep2-5100")
    )
    assert (len(whole.videos.records), len(split1.videos.records)) == (12, 9)
    assert whole.hash != split1.hash
    assert "all has 12 videos, published: 6,766" in whole.notes
    assert any("its content hash is" in note for note in whole.notes)


def test_a_video_of_several_splits_is_read_once(tmp_path):
    data = load_protocol_data(find_protocol("hmdb51/ep3"), trees.hmdb51(tmp_path))
    assert [split.name for split in data.splits] == ["test1", "test2", "test3"]
    assert [len(split.records) for split in data.splits] == [3, 3, 3]
    assert len(data.videos.records) == len({index for split in data.splits for index in split.records})
    for number, split in enumerate(data.splits, 1):
        names = {data.videos.records[index].name for index in split.records}
        alone = BENCHMARKS["hmdb51"].load(f"test{number}", root=tmp_path)
        assert names == {record.name for record in alone.records}


def test_halves_are_drawn_by_a_seed(tmp_path):
    root = trees.hmdb51(tmp_path)
    data = load_protocol_data(find_protocol("hmdb51/ep1"), root)
    assert [split.name for split in data.splits] == [f"draw {n}" for n in range(1, 11)]
    assert all(len(split.classes) == 1 and len(split.records) == 3 for split in data.splits)
    assert data == load_protocol_data(find_protocol("hmdb51/ep1"), root)
    halves = random_halves(101, 10, 2023)
    assert all(len(half) == 50 and list(half) == sorted(set(half)) for half in halves)
    assert len(set(halves)) == 10
    assert random_halves(101, 3, 2023) == halves[:3]
    assert random_halves(101, 10, 2024)[0] != halves[0]
    drawn = [n for half in halves for n in half]
    assert all(drawn.count(n) < 10 for n in range(101))


def test_base_is_the_more_frequent_half(tmp_path):
    assert base_and_novel([0] * 5 + [1] * 2 + [2] * 2 + [3] + [4] * 2, 5) == ((0, 2, 4), (1, 3))
    root = trees.hmdb51(tmp_path)
    data = load_protocol_data(find_protocol("hmdb51/base-to-novel"), root)
    assert [(split.name, split.classes) for split in data.splits] == [("base", (1, 2)), ("novel", (0,))]
    base = find_dataset("hmdb51/base").load("train1", root=root)
    assert (base.name, base.classes, base.words) == (
        "hmdb51/base",
        ("kick", "kick_ball"),
        ("kick", "kick ball"),
    )
    assert [record.label for record in base.records] == [0, 0, 1, 1]
    assert find_dataset("hmdb51/novel").load("train1", root=root).classes == ("brush_hair",)


def test_part_of_the_classes_keeps_track_of_what_is_missing(tmp_path):
    root = trees.hmdb51(tmp_path)
    for path in sorted((root / "videos/kick_ball").iterdir())[:2]:
        path.unlink()
    videos = with_classes(BENCHMARKS["hmdb51"].load("all", root=root), {0, 2})
    assert videos.classes == ("brush_hair", "kick_ball")
    assert [videos.records[index].label for index in sorted(videos.missing)] == [1, 1]


def test_the_hash_is_of_what_is_measured_and_not_of_where_it_lies(tmp_path):
    one = BENCHMARKS["hmdb51"].load("test1", root=trees.hmdb51(tmp_path / "one"))
    two = BENCHMARKS["hmdb51"].load("test1", root=trees.hmdb51(tmp_path / "two", suffix=".mkv"))
    assert content_hash(one) == content_hash(two)
    assert content_hash(dataclasses.replace(one, records=one.records[::-1])) == content_hash(one)
    (tmp_path / "two/videos/kick").rename(tmp_path / "two/videos/Kick")
    first, *others = one.records
    changes = {
        "label": dataclasses.replace(first, label=2),
        "window": dataclasses.replace(first, start_s=1.0),
        "video": dataclasses.replace(first, name="another"),
    }
    hashes = {content_hash(dataclasses.replace(one, records=(r, *others))) for r in changes.values()}
    hashes.add(content_hash(dataclasses.replace(one, records=tuple(others))))
    hashes.add(content_hash(dataclasses.replace(one, classes=("brush_hair", "kick", "kick_balls"))))
    assert len(hashes) == 5
    assert content_hash(one) not in hashes


def test_captions_count_where_they_are_what_is_measured(tmp_path):
    root = trees.msrvtt(tmp_path)
    before = load_protocol_data(find_protocol("msrvtt/1k-a"), root).hash
    path = root / "MSRVTT_JSFUSION_test.csv"
    path.write_text(path.read_text().replace("a dog", "a cat"))
    assert load_protocol_data(find_protocol("msrvtt/1k-a"), root).hash != before


@pytest.fixture
def k600(tmp_path):
    return trees.k600(tmp_path / "k600")


def test_record_lists_are_the_users_and_share_one_numbering(k600):
    data = load_protocol_data(find_protocol("k600/zs-val"), k600)
    assert len(data.videos.records) == 3
    for split, expected in zip(
        data.splits,
        (["archery", "waving hand"], ["arguing", "waving hand"], ["archery", "arguing"]),
        strict=True,
    ):
        assert [data.videos.classes[number] for number in split.classes] == expected
        labels = {data.videos.classes[data.videos.records[index].label] for index in split.records}
        assert labels == set(expected)
    assert "split 1 has 2 classes, published: 160" in data.notes


def test_a_list_that_is_not_there_is_named(k600):
    (k600 / "k600_split2/test.csv").unlink()
    with pytest.raises(
        VactkError, match=r"k600/zs-val needs its record list for split 2 under .* k600_split2/test.csv"
    ):
        load_protocol_data(find_protocol("k600/zs-val"), k600)
    (k600 / "k600_split1/k600-openset-cls2index.json").write_text('{"arxery": 0, "waving hand": 1}')
    with pytest.raises(VactkError, match="unknown class 'arxery'; did you mean 'archery'"):
        load_protocol_data(find_protocol("k600/zs-val"), k600)


def test_classes_that_kinetics_400_has_not():
    assert not_in_k400(["Abseiling", "acting in play", "air_drumming"]) == (1,)


OFFICIAL = {"hmdb51 official split folder": "hmdb51", "ucf101 official split folder": "ucf101"}


def test_protocols_on_the_official_files(data_dir, tmp_path):
    """Counts are the published ones wherever the files are; the content is known for the files as distributed."""
    sets = json.loads((data_dir / "expected.json").read_text())["annotations"]
    for item in sets:
        name = OFFICIAL.get(item["format"])
        if name is None or item["name"] != name or set(item["expect"]["splits"]) != {"1", "2", "3"}:
            continue
        source = data_dir / item["path"]
        root = trees.listed_tree(tmp_path / name, source, read_annotations(source, f"{name}-splits"))
        data = load_protocol_data(find_protocol(f"{name}/ep3"), root)
        for split, parts in zip(data.splits, item["expect"]["splits"], strict=True):
            number = split.name.removeprefix("test")
            assert (len(split.classes), len(split.records)) == (
                item["expect"]["classes"],
                item["expect"]["splits"][number]["test"],
            )
            assert parts in item["expect"]["splits"]
        differs = data.hash != data.protocol.hash
        assert differs == any("its content hash is" in note for note in data.notes)


def test_published_draws_of_kinetics_600(data_dir, tmp_path):
    official = data_dir / "annotations/kinetics600/kinetics-600_val.csv"
    tables = sorted((data_dir / "annotations/vificlip/labels").glob("ZS_split*_K600.csv"))
    if not official.is_file() or len(tables) != 3:
        pytest.skip("no Kinetics-600 with its three class tables here")
    for path in (official, *tables):
        (tmp_path / path.name).symlink_to(path.absolute())
    videos = [f"{entry.video}.mp4" for entry in read_annotations(official, "kinetics-csv").entries]
    files = [*FileTree.scan(tmp_path).others, *sorted(set(videos))]
    (tmp_path / INDEX_NAME).write_text(json.dumps({"files": files}))
    data = load_protocol_data(find_protocol("k600/zs-official"), tmp_path)
    assert [len(split.classes) for split in data.splits] == [160, 160, 160]
    assert (data.hash == data.protocol.hash) == (data.notes == ())
    known = {match_key(label) for label in known_classes("k400")}
    assert not any(match_key(data.videos.classes[n]) in known for split in data.splits for n in split.classes)


def test_base_classes_are_those_of_vifi_clip(data_dir):
    labels = data_dir / "annotations/vificlip/labels"
    cases = {"hmdb51": "hmdb_51", "ucf101": "ucf_101"}
    sets = {
        item["name"]: item for item in json.loads((data_dir / "expected.json").read_text())["annotations"]
    }
    checked = 0
    for name, stem in cases.items():
        if name not in sets or not (labels / f"{stem}_base_labels.csv").is_file():
            continue
        annotations = read_annotations(data_dir / sets[name]["path"], f"{name}-splits")
        numbers = {match_key(label): number for number, label in enumerate(annotations.classes)}
        train = [numbers[match_key(entry.label)] for entry in annotations.splits["train1"]]
        halves = base_and_novel(train, len(numbers))
        for half, part in zip(halves, ("base", "novel"), strict=True):
            published = read_classes(Path(labels / f"{stem}_{part}_labels.csv"))
            assert {match_key(annotations.classes[n]) for n in half} == {
                match_key(label) for label in published
            }
        checked += 1
    if not checked:
        pytest.skip("no lists of ViFi-CLIP here")
