from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vactk.checkpoints.checkpoint import load_model, save_model
from vactk.cli.app import app
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split

CLASSES = ("star moving left", "key moving right")
QUICK = ["--dataset", "shapes", "--frames", 2, "--batch-size", 4, "--epochs", 1, "--workers", 0]


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch, tmp_path):
    for name, seed in (("train", 0), ("seen", 1), ("unseen", 2)):
        monkeypatch.setitem(clips.SPLITS, name, Split(classes=CLASSES, videos_per_class=4, seed=seed))
    monkeypatch.setenv("VACTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="vactk")


def test_training_answers_with_the_keys_that_scripts_rely_on():
    result = run("train", *QUICK, "--output", "run", "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert {"run_dir", "checkpoint", "epochs", "videos_per_s", "metrics"} <= answer.keys()
    assert answer["checkpoint"] == "run/model.safetensors"
    assert answer["metrics"]["seen"]["num_videos"] == 8
    test = ("zeroshot", "--dataset", "shapes", "--split", "seen", "--checkpoint", "run", "--workers", 0)
    measured = run(*test, "--json")
    assert json.loads(measured.stdout)["top1"] == answer["metrics"]["seen"]["top1"]


def test_a_table_for_people_and_a_folder_of_its_own():
    result = run("train", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "shapes/unseen" in result.stdout
    assert "checkpoint: runs/shapes-" in result.stdout
    assert "parameters are trained" in result.stderr


def test_a_runs_own_settings_can_be_fed_back():
    settings = (*QUICK, "--seed", 3, "model.temporal=st_adapter", "--json")
    first = run("train", *settings, "--output", "one")
    again = run("train", "--recipe", "one/config.yaml", "--output", "two", "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["metrics"] == json.loads(first.stdout)["metrics"]


def test_a_folder_that_holds_a_run_is_not_written_over():
    run("train", *QUICK, "--output", "run")
    again = run("train", *QUICK, "--output", "run")
    assert again.exit_code == 1
    assert "already holds a run" in again.stderr
    other = run("train", *QUICK, "--output", "run", "--resume", "--frames", 3)
    assert "data.num_frames was 2, now 3" in other.stderr


def test_few_shot_training_draws_by_seed():
    result = run("train", *QUICK, "--shots", 2, "--seed", 3, "--output", "run", "--json")
    assert result.exit_code == 0, result.stderr
    assert "on 4 videos of 2 classes" in result.stderr
    assert "only 1 steps in 1 epochs; raise --epochs for more" in result.stderr
    assert "shots: 2" in (Path("run") / "config.yaml").read_text()
    many = run("train", *QUICK, "--shots", 5)
    assert many.exit_code == 1
    assert "such as 'star moving left'; the most possible is 4" in many.stderr


def test_one_class_is_nothing_to_train_on(monkeypatch):
    monkeypatch.setitem(clips.SPLITS, "train", Split(classes=CLASSES[:1], videos_per_class=4, seed=0))
    result = run("train", *QUICK)
    assert result.exit_code == 1
    assert "has one class, 'star moving left': training needs at least two" in result.stderr


def test_from_adapters_to_fine_tuning_to_a_mixture_with_the_original():
    assert run("train", *QUICK, "--output", "adapters").exit_code == 0
    tuned = run("finetune", *QUICK, "--checkpoint", "adapters", "--output", "tuned", "--json")
    assert tuned.exit_code == 0, tuned.stderr
    assert "temporal" in tuned.stderr  # the adapters go on being trained
    assert "ted_adapter" in (Path("tuned") / "config.yaml").read_text()
    mixed = run("interpolate", "tuned", "--alpha", 0, "--output", "mixed.safetensors", "--json")
    assert mixed.exit_code == 0, mixed.stderr
    test = ("zeroshot", "--dataset", "shapes", "--split", "seen", "--workers", 0, "--json")
    original = run(*test, "--frames", 2, "--backbone", "toy", "--templates", "object")
    found = run(*test, "--checkpoint", "mixed.safetensors")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["top1"] == json.loads(original.stdout)["top1"]


def test_a_start_that_names_its_own_backbone():
    run("train", *QUICK, "--output", "run")
    result = run("finetune", *QUICK, "--checkpoint", "run", "--backbone", "toy")
    assert result.exit_code == 1
    assert "a checkpoint names its own backbone: leave out --backbone" in result.stderr
    assert "there is no file 'absent" in run("finetune", *QUICK, "--checkpoint", "absent").stderr


def with_former_names(text):
    return text.replace("base_batch_size", "lr_batch").replace("warmup_start_factor", "first")


def test_a_run_of_an_earlier_version_is_measured_and_goes_on_once_its_settings_are_renamed():
    trained = run("train", *QUICK, "--output", "run", "--json")
    Path("run/result.json").unlink()
    model, settings = load_model(Path("run")), Path("run/config.yaml").read_text()
    former = json.loads(with_former_names(json.dumps(model.info["recipe"])))
    assert "lr_batch" in former["optim"]
    save_model(Path("former.safetensors"), model, towers=(), info={**model.info, "recipe": former})
    test = ("zeroshot", "--dataset", "shapes", "--split", "seen", "--workers", 0, "--json")
    measured = run(*test, "--checkpoint", "former.safetensors")
    assert measured.exit_code == 0, measured.stderr
    assert json.loads(measured.stdout)["top1"] == json.loads(trained.stdout)["metrics"]["seen"]["top1"]

    Path("run/config.yaml").write_text(with_former_names(settings))
    refused = run("train", "--output", "run", "--resume")
    assert refused.exit_code == 1
    assert "Error: setting 'optim.lr_batch' is now called 'optim.base_batch_size'" in refused.stderr
    Path("run/config.yaml").write_text(settings)
    assert run("train", "--output", "run", "--resume").exit_code == 0
