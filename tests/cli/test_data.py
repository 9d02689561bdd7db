from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tests.data import trees
from vactk.cli.app import app
from vactk.data.benchmarks import BENCHMARKS


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VACTK_CONFIG", str(tmp_path / "none.yaml"))
    monkeypatch.delenv("VACTK_DATA", raising=False)


@pytest.fixture
def root(tmp_path):
    return trees.hmdb51(tmp_path / "data" / "hmdb51", make=trees.tiny_video)


def run(*args):
    return CliRunner().invoke(app, ["data", *(str(arg) for arg in args)], prog_name="vactk")


def answer(*args):
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", ["list", "prepare", "check", "convert", "cache"])
def test_help_says_what_a_command_does(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Usage: vactk data {command}" in result.stdout
    assert "--json" in result.stdout
    assert run(command, "--no-such-option").exit_code == 2


def test_list_says_what_is_here_and_where_the_rest_comes_from(root):
    listed = {item["dataset"]: item for item in answer("list", "--data-root", root.parent)["datasets"]}
    assert set(listed) == {*BENCHMARKS, "shapes"}
    assert listed["hmdb51"]["found"]
    assert listed["hmdb51"]["splits"]["train1"] == {"listed": 6, "on_disk": 6, "published": 3570}
    assert "hmdb51/ep1" in listed["hmdb51"]["protocols"]
    assert not listed["ucf101"]["found"]
    assert "https://www.crcv.ucf.edu" in listed["ucf101"]["reason"]
    table = run("list", "--data-root", root.parent).stdout
    assert "not found" in table
    assert "train1 6/6" in " ".join(table.replace("│", " ").split())


def test_prepare_counts_and_writes_the_records(root):
    found = answer("prepare", "hmdb51", "--data-root", root)
    assert (found["num_classes"], found["num_files"], found["complete"]) == (3, 12, False)
    assert found["records"] == str(root / "vactk-records.jsonl")
    shown = run("prepare", "hmdb51", "--data-root", root).stdout
    assert "note: hmdb51 train1 lists 6 videos; 3,570 are published" in shown


def test_check_reports_and_writes_what_to_leave_out(root, tmp_path):
    broken = sorted((root / "videos/kick").iterdir())[0]
    broken.write_bytes(b"broken")
    found = answer("check", "hmdb51", "--data-root", root, "--workers", 0, "--min-frames", 2)
    assert (found["num_videos"], found["good"]) == (12, 11)
    assert list(found["problems"]["unreadable"]) == [str(broken)]
    assert json.loads((tmp_path / "vactk-check.json").read_text())["good"] == 11
    assert str(broken) in (tmp_path / "vactk-exclude.txt").read_text().splitlines()
    shown = run("check", root / "videos", "--workers", 0, "--min-frames", 2).stdout
    assert "unreadable" in shown
    assert broken.name in shown


def test_check_compares_a_list_with_the_names_of_its_files(root, tmp_path):
    lines = [f"{path.relative_to(root)},kick" for path in sorted((root / "videos/kick_ball").iterdir())]
    (tmp_path / "classes.txt").write_text("kick\nkick_ball\n")
    further = ["x_kick_ball.avi,kick_ball", f"{lines[0].rpartition(',')[0]},kick_ball", "y.avi,swim"]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines, *further]))
    found = answer("check", "list.csv", "--data-root", root, "--workers", 0)
    assert {(c["listed"], c["named"]) for c in found["contradictions"]} == {("kick", "kick_ball")}
    assert len(found["contradictions"]) == 4
    assert found["missing"] == [str(root / "x_kick_ball.avi"), str(root / "y.avi")]
    assert found["listing"]["unknown_labels"] == ["unknown class 'swim'; choose from kick, kick_ball"]
    assert "is listed with two classes, 'kick' and 'kick_ball'" in found["listing"]["notes"][0]


def test_an_excluded_video_is_not_trained_on(root, tmp_path):
    gone = BENCHMARKS["hmdb51"].load("train1", root=root).records[0].video
    (tmp_path / "exclude.txt").write_text(f"{gone}\n")
    args = ["train", "--dataset", "hmdb51", "--data-root", root, "--recipe", "m2clip-shapes", "--workers", 0]
    args += ["--frames", 2, "--epochs", 1, "--batch-size", 4, "--output", "run", "data.exclude=exclude.txt"]
    result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="vactk")
    assert result.exit_code == 0, result.stderr
    assert "on 5 videos of 3 classes" in result.stderr


def test_convert_and_cache(root, tmp_path):
    found = answer("convert", root, "--output", "small", "--short-side", 32, "--workers", 0)
    assert (found["converted"], found["existing"], found["unreadable"]) == (12, 0, {})
    assert "12 existing" in run("convert", root, "--output", "small", "--workers", 0).stdout
    cached = answer(
        "cache",
        "hmdb51",
        "--data-root",
        "small",
        "--output",
        "cache",
        "--frames",
        4,
        "--short-side",
        64,
        "--workers",
        0,
    )
    assert cached["num_videos"] == 6
    args = [
        "train",
        "--dataset",
        "hmdb51",
        "--data-root",
        "small",
        "--recipe",
        "m2clip-shapes",
        "--workers",
        0,
    ]
    args += ["--frames", 2, "--epochs", 1, "--batch-size", 4, "--output", "run", "data.cache=cache"]
    result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="vactk")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["prepare", "hmbd51"], "unknown benchmark 'hmbd51'; did you mean 'hmdb51'"),
        (["prepare", "hmdb51"], "hmdb51 was not found: no data folder is set. Fetch hmdb51_org.rar"),
        (["check", "hmbd51"], "unknown dataset 'hmbd51'; did you mean 'hmdb51'"),
        (["check", "absent/folder"], "there is no folder or list 'absent/folder'"),
        (["convert", "absent", "--output", "out"], "there is no folder 'absent'"),
        (["cache", "ucf101", "--output", "out"], "ucf101 was not found"),
    ],
)
def test_mistakes(args, message):
    result = run(*args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""
