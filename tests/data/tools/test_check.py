from __future__ import annotations

import json
import time

import pytest

from tests.data import trees
from tests.data.annotation_formats import read_annotations
from tests.video.conftest import write_video
from vactk.data.benchmarks import BENCHMARKS
from vactk.data.custom_dataset import open_custom_dataset
from vactk.data.records import Record, VideoSet
from vactk.data.tools import check
from vactk.data.tools.check import check_videos, contradictions, find_duplicates, read_excluded, write_report


@pytest.fixture
def videos(tmp_path):
    """One of every kind."""
    good = write_video(tmp_path / "good.mp4", num_frames=24)  # 2 s
    (tmp_path / "copy.mp4").write_bytes(good.read_bytes())
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "other empty.mp4").write_bytes(b"")
    write_video(tmp_path / "short.mp4", num_frames=3)
    trees.half_video(tmp_path / "half.mp4")
    names = (
        "good.mp4",
        "copy.mp4",
        "empty.mp4",
        "short.mp4",
        "half.mp4",
        "absent.mp4",
        "good.mp4",
        "good.mp4",
    )
    windows = {6: {"length_s": 10.0}, 7: {"start_s": 1.0, "end_s": 9.0}}
    records = tuple(Record(video=tmp_path / n, label=0, **windows.get(i, {})) for i, n in enumerate(names))
    return VideoSet(
        name="x", split="all", classes=("run",), words=("run",), records=records, missing=frozenset({5})
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("whole", [False, True])
def test_every_kind_of_trouble_is_found(videos, tmp_path, workers, whole):
    done = []
    report = check_videos(
        videos, workers=workers, whole=whole, progress=lambda n, total: done.append((n, total))
    )
    assert done == [(n, 7) for n in range(1, 8)]
    found = {
        outcome: {path.rsplit("/", 1)[1] for path in paths} for outcome, paths in report.problems.items()
    }
    assert found == {
        "unreadable": {"empty.mp4"},
        "partial": {"half.mp4"},
        "too short": {"short.mp4"},
        "wrong length": {"good.mp4"},
    }
    assert (report.num_videos, report.good) == (8, 2)
    assert report.missing == [str(tmp_path / "absent.mp4")]
    assert report.duplicates == [[str(tmp_path / "copy.mp4"), str(tmp_path / "good.mp4")]]
    assert "3 frames, fewer than 8" in report.problems["too short"][str(tmp_path / "short.mp4")]


def test_the_report_and_the_list_to_exclude_are_files(videos, tmp_path):
    report = check_videos(videos, workers=0)
    write_report(report, tmp_path / "out/report.json", tmp_path / "out/exclude.txt")
    assert json.loads((tmp_path / "out/report.json").read_text()) == json.loads(json.dumps(report.to_json()))
    excluded = read_excluded(tmp_path / "out/exclude.txt")
    assert {path.name for path in excluded} == {"empty.mp4", "short.mp4", "good.mp4"}
    left = videos.present(excluded)
    assert [record.video.name for record in left.records] == ["copy.mp4", "half.mp4"]


def test_a_video_that_hangs_is_reported(videos, tmp_path, monkeypatch):
    opened = check.open_video

    def hang(path):
        if path.name == "short.mp4":
            time.sleep(60)
        return opened(path)

    monkeypatch.setattr(check, "open_video", hang)
    report = check_videos(videos, workers=1, timeout_s=1.0)
    assert report.problems["unreadable"][str(tmp_path / "short.mp4")].endswith("reading it took over 1 s")


def test_empty_files_are_no_copies(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(b"" if name != "c" else b"x")
    assert find_duplicates([tmp_path / name for name in "abcd"]) == []


CLASSES = ("kick", "kick_ball", "HandstandPushups", "ball")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("a_kick_ball_f_cm_np1_ri_bad_0.avi", "kick_ball"),
        ("kick_ball_kick_u_nm_np2_le_goo_10.avi", "kick"),
        ("a_Ball_h_cm_np1_ba_med_1.avi", "ball"),
        ("v_HandStandPushups_g01_c02.avi", "HandstandPushups"),
        ("v_Skiing_g01_c02.avi", None),
        ("Kick Ball/1.mp4", "kick_ball"),
        ("train/1.mp4", None),
        ("kick.mp4", None),
    ],
)
def test_what_a_name_tells_of_the_class(tmp_path, path, named):
    for number, listed in enumerate(CLASSES):
        record = Record(video=tmp_path / path, label=number)
        videos = VideoSet(name="x", split="all", classes=CLASSES, words=CLASSES, records=(record,))
        found = [(c.listed, c.named) for c in contradictions(videos)]
        assert found == ([(listed, named)] if named not in (None, listed) else [])


def test_swapped_classes_of_a_published_list_are_found(data_dir, tmp_path):
    """ViFi-CLIP's HMDB51 lists swap kick and kick ball, sword and sword exercise, against its own table."""
    folder = data_dir / "annotations/vificlip"
    listing, table = folder / "datasets_splits/hmdb_splits/val1.txt", folder / "labels/hmdb_51_labels.csv"
    if not (listing.is_file() and table.is_file()):
        pytest.skip("no lists of ViFi-CLIP here")
    (tmp_path / "val1.txt").write_bytes(listing.read_bytes())
    (tmp_path / "classes.csv").write_bytes(table.read_bytes())
    videos = open_custom_dataset(tmp_path / "val1.txt").load("all", strict=False)
    found = contradictions(videos)
    if len(videos.records) != 1530:
        pytest.skip("not the whole list")
    assert {(c.listed, c.named) for c in found} == {
        ("kick", "kick ball"),
        ("kick ball", "kick"),
        ("sword", "sword exercise"),
        ("sword exercise", "sword"),
    }
    assert len(found) == 120
    assert len(videos.missing) == len(videos.records) == 1530


@pytest.mark.parametrize("form", ["hmdb51", "ucf101"])
def test_official_lists_contradict_no_name(data_dir, form):
    sets = json.loads((data_dir / "expected.json").read_text())["annotations"]
    paths = [data_dir / item["path"] for item in sets if item["format"] == f"{form} official split folder"]
    if not paths:
        pytest.skip(f"no {form} here")
    for path in paths:
        annotations = read_annotations(path, f"{form}-splits")
        numbers = {label: number for number, label in enumerate(annotations.classes)}
        records = tuple(
            Record(video=path / entry.video, label=numbers[entry.label], name=entry.key)
            for entry in annotations.splits["all"]
        )
        classes = annotations.classes
        videos = VideoSet(name=form, split="all", classes=classes, words=classes, records=records)
        assert contradictions(videos) == []


def test_a_benchmark_of_which_nothing_is_there_can_be_checked(tmp_path):
    benchmark = BENCHMARKS["hmdb51"]
    root = trees.hmdb51(tmp_path, make=lambda path: None)
    videos = benchmark.read(benchmark.open(root), "test1", strict=False)
    report = check_videos(videos, workers=0)
    assert (report.num_videos, len(report.missing), report.good) == (3, 3, 0)
