"""Runs on a folder of one's own videos, by the recipes that are their default."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
from typer.testing import CliRunner

from tests.train.conftest import Quiet
from tests.train.test_run import metrics, same_weights, without_clock
from vactk.cli.app import app
from vactk.config import build, merge, parse_overrides
from vactk.data.shapes import load_shapes
from vactk.recipes import read_recipe
from vactk.train.recipe import Recipe
from vactk.train.run import Interrupted, train

SMALL = ("model.backbone.name=toy", "data.workers=0", "data.num_frames=2", "run.batch_size=4")
BRIEF = ("run.min_steps=8", "run.evaluations=3", "run.epochs=0.1")


@pytest.fixture
def folder(small_shapes, tmp_path):
    """Five training clips and two test clips of each of three classes."""
    for split, part in (("train", "train"), ("seen", "test")):
        videos = load_shapes(split)
        for record in videos.records:
            target = tmp_path / "own" / part / videos.classes[record.label] / f"{record.video.stem}.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(record.video, target)
    return tmp_path / "own"


def recipe(folder, *settings, name="own-videos"):
    chosen = parse_overrides([f"dataset={folder}", *SMALL, *BRIEF, *settings])
    return build(Recipe, merge(read_recipe(name), chosen))


@pytest.mark.parametrize("name", ["own-videos", "own-videos-finetune"])
def test_videos_are_held_out_of_each_class_and_tested_on_once(folder, tmp_path, name, reporter):
    full = recipe(folder, name=name)
    result = train(full, tmp_path / "run", resume=False, reporter=reporter, origin=f"recipe {name}")
    uses = "12 to train on; 3 held out for validation; 6 for the test at the end (test)"
    assert reporter.messages[0] == f"recipe {name}: 21 videos, 3 classes: {uses}"
    lines = metrics(tmp_path / "run")
    evaluations = [line for line in lines if "evaluation" in line]
    assert [line["step"] for line in evaluations] == [2, 4, 6, 8]
    assert {split for line in evaluations for split in line["evaluation"]} == {"train, held out"}
    assert {"loss", "lr", "epoch", "accuracy"} <= lines[0].keys()
    assert all(line["evaluation"]["train, held out"]["loss"] > 0 for line in evaluations)
    assert list(result.metrics) == ["test"]
    shown = [message for message in reporter.messages if message.startswith("step ")]
    assert len(shown) == 4
    assert "step 2 of 8: train, held out: top-1 " in shown[0]
    assert "loss" in shown[0]
    assert result.steps == 8


def test_of_equal_accuracies_the_lower_loss_is_kept(folder, tmp_path, reporter):
    result = train(recipe(folder), tmp_path / "run", resume=False, reporter=reporter)
    found = {
        line["step"]: line["evaluation"]["train, held out"]
        for line in metrics(tmp_path / "run")
        if "evaluation" in line
    }
    best = max(found, key=lambda step: (found[step]["top1"], -found[step]["loss"]))
    assert result.chosen["step"] == best
    assert result.chosen["score"] == found[best]["top1"]


def test_training_stops_without_patience_and_goes_on_to_the_same_end(folder, tmp_path):
    # a rate that only spoils: nothing is better than the first evaluation
    full = recipe(folder, "optim.lr=1e-2", "run.patience=2", "run.min_steps=40", "run.evaluations=19")
    whole, parted = Quiet(), Quiet()
    result = train(full, tmp_path / "whole", resume=False, reporter=whole)
    assert result.steps < 40
    assert f"stopped at step {result.steps} of 40: 2 evaluations without a better one" in "".join(
        whole.messages
    )
    assert result.chosen["step"] == result.steps - 4

    parted.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == result.steps else None
    with pytest.raises(Interrupted):  # at the step of the last evaluation
        train(full, tmp_path / "parted", resume=False, reporter=parted)
    parted.on_step = lambda step: None
    again = train(full, tmp_path / "parted", resume=True, reporter=parted)
    assert (again.steps, again.chosen) == (result.steps, result.chosen)
    assert same_weights(tmp_path / "whole", tmp_path / "parted")
    assert without_clock(metrics(tmp_path / "whole")) == without_clock(metrics(tmp_path / "parted"))


def test_uneven_classes_are_drawn_equally_often_and_resume_the_same(folder, tmp_path):
    for number in (2, 3, 4):
        next((folder / "train").glob(f"star moving left/*{number}.mp4")).unlink()
    whole, parted = Quiet(), Quiet()
    result = train(recipe(folder), tmp_path / "whole", resume=False, reporter=whole)
    assert "each class is drawn equally often (run.balance)" in whole.messages
    assert any(
        "too few training videos of" in text and "'star moving left' (2)" in text for text in result.warnings
    )
    parted.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 3 else None
    with pytest.raises(Interrupted):
        train(recipe(folder), tmp_path / "parted", resume=False, reporter=parted)
    parted.on_step = lambda step: None
    train(recipe(folder), tmp_path / "parted", resume=True, reporter=parted)
    assert same_weights(tmp_path / "whole", tmp_path / "parted")


def test_what_makes_a_result_unreliable_is_said_first_and_last(folder, tmp_path):
    copied = next((folder / "train" / "star moving left").iterdir())
    shutil.copyfile(copied, folder / "test" / "star moving right" / "copied.mp4")
    arguments = ["train", "--dataset", folder, "--backbone", "toy", "--frames", 2, "--workers", 0, *BRIEF[:2]]
    given = [*arguments, "--epochs", 1, "optim.lr=1e-9", "run.batch_size=4", "--output", tmp_path / "run"]
    result = CliRunner().invoke(app, list(map(str, given)), prog_name="vactk")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith(
        "recipe own-videos, the default for your own videos: 22 videos, 3 classes: "
    )
    for shown in (result.stderr, result.stdout):  # whether the copied one is held out depends on its name
        assert "test share content: 1 files are in both" in shown
    stored = json.loads((tmp_path / "run/result.json").read_text())
    assert [warning for warning in stored["warnings"] if "share content" in warning]
    assert stored["steps"] == 8  # of settings and of epochs, the least steps that are given hold


def test_the_first_line_counts_recordings_where_names_tell_them(folder, tmp_path, reporter):
    for number, video in enumerate(sorted((folder / "train").glob("fish*/*.mp4"))):
        video.rename(video.with_name(f"{'pond' if number < 3 else 'sea'}_part{number}.mp4"))
    train(recipe(folder), tmp_path / "run", resume=False, reporter=reporter)
    assert "11 to train on; 4 held out for validation (whole recordings, of 12); 6" in reporter.messages[0]


def test_epochs_that_are_given_count_alone(folder, tmp_path):
    arguments = ["train", "--dataset", folder, "--backbone", "toy", "--frames", 2, "--workers", 0]
    given = [*arguments, "--epochs", 1, "run.batch_size=4", "--output", tmp_path / "run", "--json"]
    result = CliRunner().invoke(app, list(map(str, given)), prog_name="vactk")
    assert json.loads(result.stdout)["steps"] == 3


def test_classes_too_small_to_share_leave_the_last_weights(folder, tmp_path, reporter):
    for video in (folder / "train").glob("*/*[234].mp4"):
        video.unlink()
    result = train(recipe(folder, "run.balance=always"), tmp_path / "run", resume=False, reporter=reporter)
    assert "no validation: each class has too few videos to hold some out" in " ".join(reporter.messages)
    assert result.chosen == {"step": 8, "by": "the last step"}
    assert not any("evaluation" in line for line in metrics(tmp_path / "run"))  # never the test set


def test_a_validation_folder_is_used_as_one(folder, tmp_path, reporter):
    shutil.copytree(folder / "test", folder / "val")
    result = train(recipe(folder), tmp_path / "run", resume=False, reporter=reporter)
    assert result.videos["trained"]["num_videos"] == 15
    assert result.videos["held_out"]["split"] == "own/val"
    assert list(result.metrics) == ["test"]
