from __future__ import annotations

import pytest

from tests.data import trees
from vactk.data.annotations.classes import known_classes
from vactk.data.benchmarks import BENCHMARKS, find_benchmark
from vactk.data.datasets import DATASETS, find_dataset
from vactk.errors import VactkError


@pytest.fixture(autouse=True)
def _no_places(monkeypatch, tmp_path):
    monkeypatch.setenv("VACTK_CONFIG", str(tmp_path / "absent.yaml"))
    for name in ("VACTK_DATA", *(f"VACTK_DATA_{name.upper()}" for name in BENCHMARKS)):
        monkeypatch.delenv(name, raising=False)


def test_hmdb51_reads_as_distributed(tmp_path):
    root = trees.hmdb51(tmp_path / "HMDB51")
    train = find_dataset("hmdb51").load("train1", root=tmp_path)
    assert train.classes == ("brush_hair", "kick", "kick_ball")
    assert train.words == ("brush hair", "kick", "kick ball")
    assert [record.label for record in train.records] == [0, 0, 1, 1, 2, 2]
    assert all(record.video.is_file() and record.video.is_relative_to(root) for record in train.records)
    sizes = {
        split: len(BENCHMARKS["hmdb51"].load(split, root=root).records)
        for split in ("test2", "unused3", "all")
    }
    assert sizes == {"test2": 3, "unused3": 3, "all": 12}


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv", ".AVI"])
def test_a_video_is_found_whatever_its_suffix(tmp_path, suffix):
    root = trees.hmdb51(tmp_path, suffix=suffix)
    videos = BENCHMARKS["hmdb51"].load("test1", root=root)
    assert not videos.missing
    assert {record.video.suffix for record in videos.records} == {suffix}


def test_ucf101_is_matched_without_case(tmp_path):
    root = trees.ucf101(tmp_path)
    (root / "UCF-101/HandstandPushups").rename(root / "UCF-101/HandStandPushups")
    videos = find_dataset("ucf101").load("test1", root=root)
    assert videos.classes == ("HandstandPushups", "TaiChi", "YoYo")
    assert videos.words == ("handstand pushups", "tai chi", "yo yo")
    assert not videos.missing
    assert [record.label for record in videos.records] == [0, 1, 2]


def test_kinetics_is_found_by_id_and_times_in_any_folder(tmp_path):
    root = trees.kinetics(tmp_path / "k400")
    videos = find_dataset("kinetics-400").load("val", root=tmp_path)
    found = [str(record.video.relative_to(root)) for record in videos.records]
    assert found == [path for *_, path in trees.KINETICS_ROWS]
    assert [videos.classes[record.label] for record in videos.records] == [
        row[0] for row in trees.KINETICS_ROWS
    ]
    assert len(videos.classes) == 400


def test_an_id_with_two_times_is_no_name_for_a_file(tmp_path):
    root = trees.kinetics(tmp_path / "k")
    with (root / "kinetics-400_val.csv").open("a") as file:
        file.write("\nabseiling,Ab2_3456789,40,50,validate,0")
    videos = BENCHMARKS["k400"].load("val", root=root)
    assert [sorted(videos.missing), len(videos.records)] == [[1, 3], 4]


def test_something_something_templates_lose_their_brackets(tmp_path):
    videos = find_dataset("ssv2").load("val", root=trees.ssv2(tmp_path / "ssv2"))
    assert videos.classes == (
        "Attaching something to something",
        "Holding something",
        "Moving something up",
    )
    assert [record.label for record in videos.records] == [1, 0, 2]
    assert videos.records[0].captions == ("holding a cup",)
    assert [record.video.name for record in videos.records] == ["7.webm", "8.mp4", "6.mp4"]
    unlabelled = find_dataset("ssv2").load("test", root=tmp_path)
    assert [record.label for record in unlabelled.records] == [None]


def test_the_tests_answers_are_its_labels(tmp_path):
    root = trees.ssv2(tmp_path)
    (root / "test-answers.csv").write_text("9;Holding something\n")
    assert [record.label for record in BENCHMARKS["ssv2"].load("test", root=root).records] == [1]


def test_msrvtt_has_captions_and_its_splits(tmp_path):
    root = trees.msrvtt(tmp_path)
    load = find_dataset("msrvtt").load
    assert [r.captions for r in load("test1k", root=root).records] == [("a dog, running",)]
    train = load("train9k", root=root)
    assert [r.video.stem for r in train.records] == ["video0", "video1", "video2"]
    assert train.records[1].captions == ("caption 0 of 1", "caption 1 of 1", "caption 2 of 1")
    assert [len(load(split, root=root).records) for split in ("train", "val", "test", "full")] == [2, 1, 1, 4]
    (root / "MSRVTT_train.9k.csv").unlink()
    assert [r.video.stem for r in load("train9k", root=root).records] == ["video0", "video1", "video2"]


def test_msrvtt_lists_with_semicolons_and_bare_ids(tmp_path):
    root = trees.msrvtt(tmp_path)
    (root / "MSRVTT_JSFUSION_test.csv").write_text(
        "key;vid_key;video_id;sentence\nret0;msr3;video3;a dog, running\n"
    )
    (root / "MSRVTT_train.9k.csv").write_text("video0\nvideo2\n")
    load = BENCHMARKS["msrvtt"].load
    assert [r.captions for r in load("test1k", root=root).records] == [("a dog, running",)]
    assert [r.video.stem for r in load("train9k", root=root).records] == ["video0", "video2"]


def test_msrvtt_reads_from_the_lists_of_the_common_archive(tmp_path):
    root = trees.msrvtt_archive(tmp_path)
    load = BENCHMARKS["msrvtt"].load
    found = {
        name: load(name, root=root).records for name in ("train", "val", "test", "train9k", "full", "test1k")
    }
    assert {name: len(records) for name, records in found.items()} == {
        "train": 2, "val": 1, "test": 1, "train9k": 3, "full": 4, "test1k": 1,
    }  # fmt: skip
    assert found["test1k"][0].captions == ("caption 0 of 3",)  # the second of the file, by the pickled table
    assert found["test"][0].captions == ("caption 2 of 3", "caption 0 of 3", "caption 1 of 3")


def test_msrvtt_says_what_the_archives_lists_lack(tmp_path):
    root = trees.msrvtt_archive(tmp_path)
    lists = root / "high-quality/structured-symlinks"
    (lists / "train_list_full.txt").write_text("video0\nvideo77\n")
    (lists / "jsfusion_val_caption_idx.pkl").unlink()
    lines = BENCHMARKS["msrvtt"].load("full", root=root).report.lines()
    assert "train_list_full.txt lists 1 videos without captions, such as 'video77'" in lines
    assert any(
        "does not say which caption 1k-A uses for 'video3'; add MSRVTT_JSFUSION" in line for line in lines
    )
    with pytest.raises(VactkError, match="unknown split of msrvtt 'test1k'"):
        BENCHMARKS["msrvtt"].load("test1k", root=root)


def test_videos_in_several_places_are_read_from_the_first_and_told(tmp_path):
    trees.hmdb51(tmp_path)
    for path in sorted((tmp_path / "videos").rglob("*.avi")):
        trees.touch(tmp_path / "small" / path.relative_to(tmp_path).with_suffix(".mp4"))
    videos = BENCHMARKS["hmdb51"].load("test1", root=tmp_path)
    assert not videos.missing
    assert {record.video.relative_to(tmp_path).parts[0] for record in videos.records} == {"small"}
    assert any("3 videos have several matching files in" in line for line in videos.report.lines())


def test_missing_videos_are_reported_and_left_out_only_when_asked(tmp_path):
    root = trees.hmdb51(tmp_path)
    gone = sorted((root / "videos/kick").iterdir())[2]
    gone.unlink()
    videos = BENCHMARKS["hmdb51"].load("test1", root=root)
    assert len(videos.records) == 3
    assert [videos.records[place].video.name for place in videos.missing] == [gone.name]
    assert videos.report.missing == (f"kick/{gone.name}",)
    assert len(videos.present().records) == 2
    assert "1 of 3 listed videos are not on disk" in videos.report.lines()[0]


def test_counts_are_checked_against_the_published_ones(tmp_path):
    lines = BENCHMARKS["hmdb51"].load("test1", root=trees.hmdb51(tmp_path)).report.lines()
    assert lines == ["hmdb51 test1 lists 3 videos; 1,530 are published"]


def test_an_absent_dataset_is_answered_with_what_to_fetch_and_where_it_was_looked_for(tmp_path, monkeypatch):
    with pytest.raises(
        VactkError, match=r"no data folder is set. Fetch hmdb51_org.rar; .* from https://serre"
    ):
        find_dataset("hmdb51").load("test1")
    monkeypatch.setenv("VACTK_DATA_UCF101", str(tmp_path / "gone"))
    monkeypatch.setenv("VACTK_DATA", str(tmp_path))
    with pytest.raises(
        VactkError, match=r"gone' \(VACTK_DATA_UCF101\): no such folder; .*\(VACTK_DATA\): no anno"
    ):
        find_dataset("ucf101").load("test1")


def test_a_dataset_without_any_of_its_videos_says_so(tmp_path):
    root = trees.hmdb51(tmp_path, make=lambda path: None)
    with pytest.raises(VactkError, match=r"none of the 3 videos of hmdb51/test1 is under .*holds 0 videos"):
        BENCHMARKS["hmdb51"].load("test1", root=root)


def test_an_unknown_split_names_the_nearest(tmp_path):
    with pytest.raises(VactkError, match="unknown split of hmdb51 'tset1'; did you mean 'test1'"):
        BENCHMARKS["hmdb51"].load("tset1", root=trees.hmdb51(tmp_path))


def test_every_benchmark_is_a_dataset_with_names_for_its_classes():
    for name, benchmark in BENCHMARKS.items():
        assert DATASETS[name].train_split == benchmark.train_split
        assert find_benchmark(name.upper() if name == "hmdb" else name) is benchmark
        if benchmark.labelled:
            assert len(known_classes(name)) == benchmark.num_classes
            assert all(words == words.lower().strip() and words for words in known_classes(name).values())
    assert find_benchmark("Kinetics-600").name == "k600"
    with pytest.raises(VactkError, match="unknown benchmark 'hmbd51'; did you mean 'hmdb51'"):
        find_benchmark("hmbd51")
