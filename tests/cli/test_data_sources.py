"""Benchmarks, folders and lists of the user's own, and protocols, from the command line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tests.data import trees
from tests.data.broken import PARTIAL, UNREADABLE
from vactk.cli.app import app
from vactk.evaluate.protocol import protocols

QUICK = ("--workers", 0, "--frames", 2)


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VACTK_CONFIG", str(tmp_path / "none.yaml"))
    monkeypatch.delenv("VACTK_DATA", raising=False)


@pytest.fixture
def root(tmp_path):
    return trees.hmdb51(tmp_path / "data" / "hmdb51", make=trees.tiny_video)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="vactk")


def answer(*args):
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_protocol_states_what_was_run(root):
    found = answer(
        "zeroshot", "--protocol", "hmdb51/ep3", "--data-root", root, "--backbone", "toy", *QUICK, "--views", 2
    )
    assert (found["dataset"], found["protocol"]) == ("hmdb51", "hmdb51/ep3")
    assert [(d["name"], d["num_videos"], d["num_classes"]) for d in found["draws"]] == [
        (f"test{n}", 3, 3) for n in (1, 2, 3)
    ]
    assert (found["frames"], found["views"], found["model"]) == (2, 2, "toy")
    assert len(found["hash"]) == 12
    assert {"top1", "top5", "top1_sd", "top5_sd", "templates", "failed", "notes"} <= found.keys()


def test_a_protocol_as_a_table(root):
    args = ("zeroshot", "--protocol", "hmdb51/ep3", "--data-root", root, "--backbone", "toy", *QUICK)
    shown = run(*args).stdout
    assert "hmdb51/ep3: all classes, the tests of the three splits" in shown
    assert "mean +- sd" in shown
    found = answer(*args)
    assert f"{found['frames']} frames x {found['views']} views x {found['crops']} crops" in shown
    assert f"content {found['hash']}" in shown
    assert "note: test1 has 3 classes, published: 51" in shown


def test_all_protocols_are_listed_with_published_numbers():
    shown = run("zeroshot", "--protocol", "list").stdout
    assert all(f"│ {name} " in shown for name in protocols())
    assert "videos: 3 x 1,530" in shown
    assert "Open-VCLIP B/16: 53.2" in shown
    listed = answer("zeroshot", "--protocol", "list")["protocols"]
    assert {item["protocol"] for item in listed} == set(protocols())


def test_a_dataset_by_name_and_by_environment(root, monkeypatch, tmp_path):
    monkeypatch.setenv("VACTK_DATA", str(root.parent))
    found = answer("zeroshot", "--dataset", "hmdb51", "--split", "test2", "--backbone", "toy", *QUICK)
    assert (found["protocol"], found["num_videos"]) == ("hmdb51/test2", 3)
    assert len(found["hash"]) == 12


def test_a_folder_and_a_list_are_tested_and_trained_on(root, tmp_path):
    folder = root / "videos"
    found = answer("zeroshot", "--dataset", folder, "--backbone", "toy", *QUICK)
    assert (found["num_videos"], found["num_classes"]) == (12, 3)
    lines = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("*.avi"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    args = ("train", "--dataset", "list.csv", "--data-root", folder, "--recipe", "m2clip-shapes", *QUICK)
    trained = answer(*args, "--epochs", 1, "--batch-size", 4, "--output", "run")
    assert trained["metrics"]["test"]["num_videos"] == 3
    tested = answer(
        "zeroshot",
        "--dataset",
        "list.csv",
        "--data-root",
        folder,
        "--split",
        "test",
        "--checkpoint",
        "run",
        "--workers",
        0,
    )
    assert tested["top1"] == trained["metrics"]["test"]["top1"]


def test_a_split_without_labels_cannot_be_measured(tmp_path):
    trees.ssv2(tmp_path / "ssv2")
    result = run(
        "zeroshot", "--dataset", "ssv2", "--split", "test", "--data-root", tmp_path, "--backbone", "toy"
    )
    assert result.exit_code == 1
    assert "ssv2/test has no labels to evaluate with" in result.stderr


def test_the_run_of_a_folder_has_a_name_of_its_own(root):
    args = ("train", "--dataset", root / "videos", "--recipe", "m2clip-shapes", *QUICK)
    found = answer(*args, "--epochs", 1, "--batch-size", 4)
    assert found["run_dir"].startswith("runs/videos-")


def test_missing_videos_are_left_out_of_training_and_told(root):
    sorted((root / "videos/kick").iterdir())[0].unlink()
    args = ("train", "--dataset", "hmdb51", "--data-root", root, "--recipe", "m2clip-shapes", *QUICK)
    stopped = run(*args, "--epochs", 1, "--batch-size", 4, "--output", "stopped")
    assert stopped.exit_code == 1
    assert "1 of 6 videos of hmdb51 are not on disk, more than run.max_failed 0.1" in stopped.stderr
    result = run(*args, "--epochs", 1, "--batch-size", 4, "--output", "run", "--json", "run.max_failed=0.2")
    assert result.exit_code == 0, result.stderr
    assert "hmdb51, train1: 1 of 6 listed videos are not on disk" in result.stderr
    assert "on 5 videos of 3 classes" in result.stderr
    assert json.loads(result.stdout)["failed"] == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_of_which_a_third_is_broken_trains_and_reports_it_all(tmp_path, workers):
    """Every kind of broken file, in a class folder each; all are named, in training or as wrong in testing."""
    root = tmp_path / "clips"
    for number in range(20):
        trees.tiny_video(root / f"class{number % 2}" / f"good{number}.mp4")
    broken = {
        root / f"class{n % 2}" / f"{name}.mp4": make for n, (name, make) in enumerate(UNREADABLE.items())
    }
    for path, make in broken.items():
        make(path)
    PARTIAL["cut_short"](root / "class0/cut_short.mp4")
    args = ("train", "--dataset", root, "--recipe", "m2clip-shapes", "--workers", workers, "--frames", 2)
    args += ("--epochs", 2, "--batch-size", 4, "--seed", 1)
    found = answer(*args, "--output", "run", "run.max_failed=0.5")
    tested = found["metrics"]["test"]
    named = found["failed"] + [failure["error"] for failure in tested["failed"]]
    assert len(named) == len(broken)
    assert all(any(str(path) in message for message in named) for path in broken)
    assert tested["num_videos"] == 5
    stopped = run(*args, "--output", "stopped")
    assert stopped.exit_code == 1
    assert "training videos cannot be read, more than run.max_failed=0.1" in stopped.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["zeroshot", "--protocol", "hmdb51/ep4"], "unknown protocol 'hmdb51/ep4'; did you mean"),
        (["zeroshot", "--protocol", "hmdb51/ep2", "--dataset", "hmdb51"], "or a --dataset, or a --protocol"),
        (["zeroshot", "--protocol", "hmdb51/ep2", "--split", "x"], "a protocol names its own splits"),
        (
            ["zeroshot", "--protocol", "msrvtt/1k-a"],
            "is a retrieval protocol: evaluate it with `vactk retrieve`",
        ),
        (["zeroshot", "--dataset", "msrvtt"], "'msrvtt' names no classes"),
        (
            ["train", "--dataset", "msrvtt", "--recipe", "m2clip-shapes"],
            "'msrvtt' has no classes to train on",
        ),
        (
            ["zeroshot", "--dataset", "hmdb51", "--backbone", "toy"],
            "hmdb51 was not found: no data folder is set",
        ),
        (["zeroshot", "--dataset", "absent/folder"], "there is no folder or list 'absent/folder'"),
        (["zeroshot", "--dataset", "list.csv"], "there is no folder or list 'list.csv'"),
    ],
)
def test_mistakes(args, message):
    result = run(*args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""
