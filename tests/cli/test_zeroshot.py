from __future__ import annotations

import csv
import json
import re
import shutil

import pytest
from typer.testing import CliRunner

from tests.benchmarks import timeline
from vactk.cli.app import app
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split
from vactk.video.reader import open_video

CLASSES = ("star moving left", "key moving right")


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch, tmp_path):
    monkeypatch.setitem(clips.SPLITS, "unseen", Split(classes=CLASSES, videos_per_class=3, seed=2))
    monkeypatch.setenv("VACTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="vactk")


@pytest.fixture
def folder(tmp_path):
    """Two clips, one of them in a folder of its own, and three files that are no videos."""
    videos = clips.load_shapes("unseen").records
    folder = tmp_path / "clips"
    (folder / "deeper").mkdir(parents=True)
    (folder / "star.mp4").write_bytes(videos[0].video.read_bytes())
    (folder / "deeper" / "key.mp4").write_bytes(videos[3].video.read_bytes())
    (folder / "notes.txt").write_text("not a video")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / ".hidden").write_text("left out")
    return folder


def test_files_are_answered_with_a_probability_for_each_label(folder):
    result = run(
        "zeroshot", folder, "--labels", "star,key,tree", "--backbone", "toy", "--workers", 0, "--json"
    )
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert {prediction["video"].split("/")[-1] for prediction in answer["predictions"]} == {
        "star.mp4",
        "key.mp4",
    }
    for prediction in answer["predictions"]:
        labels = prediction["labels"]
        assert {item["label"] for item in labels} == {"star", "key", "tree"}
        assert sum(item["probability"] for item in labels) == pytest.approx(1, abs=1e-5)
        assert [item["probability"] for item in labels] == sorted(
            (item["probability"] for item in labels), reverse=True
        )
        assert labels[0]["label"] == prediction["video"].split("/")[-1].split(".")[0]
    assert {failure["video"].split("/")[-1] for failure in answer["failed"]} == {"notes.txt", "empty.mp4"}
    assert all("notes.txt" in f["error"] or "empty.mp4" in f["error"] for f in answer["failed"])


def test_a_table_for_people(folder):
    result = run("zeroshot", folder / "star.mp4", "--labels", "star,key", "--backbone", "toy", "--workers", 0)
    assert result.exit_code == 0, result.stderr
    assert "Predicted labels" in result.stdout
    assert "star " in result.stdout
    assert "%" in result.stdout


def test_when_nothing_reads_the_command_fails_and_says_why(folder):
    result = run(
        "zeroshot", folder / "empty.mp4", "--labels", "a,b", "--backbone", "toy", "--workers", 0, "--json"
    )
    assert result.exit_code == 1
    assert json.loads(result.stdout)["predictions"] == []
    assert "none of the files could be read" in result.stderr
    assert "empty.mp4" in result.stderr


def test_labels_from_a_file(folder, tmp_path):
    (tmp_path / "labels.txt").write_text("star, bright\nkey\n")
    args = ["zeroshot", folder / "star.mp4", "--labels", tmp_path / "labels.txt", "--backbone", "toy"]
    answer = json.loads(run(*args, "--workers", 0, "--json").stdout)
    assert {item["label"] for item in answer["predictions"][0]["labels"]} == {"star, bright", "key"}


def test_a_dataset_is_measured():
    result = run(
        "zeroshot", "--dataset", "shapes", "--split", "unseen", "--workers", 0, "--views", 2, "--json"
    )
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["protocol"] == "shapes/unseen"
    assert (answer["num_videos"], answer["num_classes"]) == (6, 2)
    assert answer["views"] == 2
    assert answer["model"] == "toy"
    assert 0 <= answer["top1"] <= answer["top5"] <= 100
    assert answer["failed"] == []


def test_unreadable_videos_of_a_dataset_count_as_wrong():
    whole = json.loads(run("zeroshot", "--dataset", "shapes", "--workers", 0, "--json").stdout)
    video = clips.load_shapes("unseen").records[3].video
    video.write_bytes(b"\0" * video.stat().st_size)
    damaged = json.loads(run("zeroshot", "--dataset", "shapes", "--workers", 0, "--json").stdout)
    assert damaged["num_videos"] == whole["num_videos"]
    assert [failure["video"] for failure in damaged["failed"]] == [str(video)]
    assert damaged["top5"] == pytest.approx(100 * 5 / 6)


@pytest.fixture
def trained(monkeypatch):
    """A run on two classes, and its evaluation; the unseen split has one of them and another."""
    for name, seed in (("train", 0), ("seen", 1), ("unseen", 2)):
        classes = (CLASSES[1], "star moving up") if name == "unseen" else CLASSES
        monkeypatch.setitem(clips.SPLITS, name, Split(classes=classes, videos_per_class=2, seed=seed))
    quick = ("--frames", 2, "--epochs", 1, "--workers", 0)
    result = run("train", "--dataset", "shapes", "--output", "run", *quick, "--json")
    return json.loads(result.stdout)


@pytest.mark.parametrize("by", ["class_head", "ensemble"])
def test_the_class_head_and_the_ensemble_answer_for_the_classes_of_the_training(trained, by):
    test = ("zeroshot", "--dataset", "shapes", "--checkpoint", "run", "--workers", 0, "--by", by)
    found = json.loads(run(*test, "--split", "seen", "--json").stdout)
    expected = trained["metrics"]["seen"][by]
    assert (found["by"], found["top1"], found["top5"]) == (by, expected["top1"], expected["top5"])
    other = run(*test, "--split", "unseen")
    assert other.exit_code == 1
    assert f"'{by}' needs a checkpoint whose class head was trained on all of these classes" in other.stderr


def test_files_may_be_told_apart_by_the_classes_of_the_training(trained, folder):
    answer = run("zeroshot", folder / "star.mp4", "--checkpoint", "run", "--by", "ensemble", "--json")
    labels = json.loads(answer.stdout)["predictions"][0]["labels"]
    assert {label["label"] for label in labels} == set(CLASSES)
    assert sum(label["probability"] for label in labels) == pytest.approx(1)


@pytest.fixture
def long_video(folder):
    """Ten seconds of a star, ten of a key, and a minute of the first again."""
    star, key = (folder / "star.mp4", folder / "deeper" / "key.mp4")
    path = folder.parent / "long.mp4"
    frames = []
    for source, seconds in ((star, 10), (key, 10), (star, 60)):
        with open_video(source) as video:
            frames += list(video.read(range(12)).permute(0, 2, 3, 1).contiguous().numpy()) * seconds
    timeline.write(path, frames, 12)
    return path


TOY = ("--labels", "star,key,tree", "--backbone", "toy", "--workers", 0)


def test_a_long_video_is_answered_for_over_time(long_video, tmp_path):
    outputs = [word for suffix in ("csv", "srt", "jsonl") for word in ("--output", f"over.{suffix}")]
    result = run("zeroshot", long_video, *TOY, "--window", 2, *outputs, "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    (found,) = answer["timelines"]
    shown = [(one["label"], one["start_s"], one["end_s"]) for one in found["segments"]]
    assert [label for label, *_ in shown] == ["star", "key", "star"]
    assert [start_s for _, start_s, _ in shown] == pytest.approx([0, 10, 20], abs=1)
    assert (answer["window_s"], answer["stride_s"], answer["model"]) == (2, 0.5, "toy")
    assert answer["output"] == ["over.csv", "over.srt", "over.jsonl"]
    assert len((tmp_path / "over.csv").read_text().splitlines()) == 4
    table = run("zeroshot", long_video, *TOY, "--window", 4, "--stride", 4, "--multi-label")
    assert table.exit_code == 0, table.stderr
    assert "windows of 4 s every 4 s" in table.stdout
    assert "one of 100 unrelated phrases fits better" in table.stdout
    nothing = run("zeroshot", long_video, *TOY, "--window", 4, "--threshold", 0.99)
    assert "none of these" in nothing.stdout
    assert not re.search(r"\bstar\b", nothing.stdout)


def test_a_long_video_as_a_whole_says_what_was_missed(long_video):
    answer = json.loads(run("zeroshot", long_video, *TOY, "--json").stdout)
    assert answer["notes"] == [
        "8 frames of 1 minute were seen of 'long.mp4'; --window 4 classifies it piece by piece"
    ]


def test_predictions_go_to_a_file_and_piped_rows_are_lines(folder, tmp_path):
    deep = folder / ("a long name of a folder " * 5).strip()
    deep.mkdir()
    shutil.move(folder / "deeper" / "key.mp4", deep / "key.mp4")
    result = run("zeroshot", folder, *TOY, "--top", 2, "--output", "found.csv")
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if "key.mp4" in line]
    assert f"{deep.name}/key.mp4" in line  # below the folder of all, in one piece
    assert str(folder) not in line
    assert str(folder) in result.stdout
    assert re.search(r"key \d+\.\d% \(0\.\d{3}\)", line)
    rows = list(csv.DictReader((tmp_path / "found.csv").open()))
    assert {row["video"]: row["label"] for row in rows if row["label"]} == {
        str(folder / "star.mp4"): "star",
        str(deep / "key.mp4"): "key",
    }
    assert "label_3" not in rows[0]
    assert len([row for row in rows if row["error"]]) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--stride", 1), "--stride is for answers over time: add --window SECONDS"),
        (("--multi-label",), "--multi-label is for answers over time"),
        (("--threshold", 0.2), "--threshold is for answers over time"),
        (("--window", 4, "--top", 2), "--top is for videos as wholes"),
        (("--window", 4, "--stride", 5), "leaves out what lies between"),
        (("--window", 4, "--by", "ensemble"), "by similarity: leave out --by ensemble"),
        (("--window", 0), "more than 0 seconds"),
        (("--output", "a.srt"), "add --window SECONDS"),
        (("--output", "a.txt"), "unknown format for --output"),
    ],
)
def test_options_that_do_not_go_together(folder, given, message):
    result = run("zeroshot", folder / "star.mp4", *TOY, *given)
    assert (result.exit_code, message in result.stderr) == (1, True), result.stderr


def test_a_datasets_answers_do_not_go_over_time():
    result = run("zeroshot", "--dataset", "shapes", "--window", 4)
    assert (result.exit_code, "--window is for the answers to videos" in result.stderr) == (1, True)
