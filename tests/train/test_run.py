from __future__ import annotations

import json
import multiprocessing
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from tests.hanging import WITHIN_S, hanging, seconds_until_end, started, wait_until
from tests.train.conftest import Quiet
from vactk.checkpoints.checkpoint import load_model
from vactk.config import build, read_yaml
from vactk.errors import VactkError
from vactk.train.recipe import Recipe
from vactk.train.run import Interrupted, train

pytestmark = pytest.mark.usefixtures("small_shapes")


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_clock(lines):
    return [{k: v for k, v in line.items() if k not in ("videos_per_s", "data_wait")} for line in lines]


def same_weights(one, two):
    first, second = (load_file(folder / "model.safetensors") for folder in (one, two))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_ends_with_a_model_its_numbers_and_its_settings(tmp_path, quick_recipe, reporter):
    recipe = quick_recipe()
    result = train(recipe, tmp_path / "run", resume=False, reporter=reporter)
    assert set(result.metrics) == {"seen", "unseen"}
    assert result.metrics["seen"]["num_videos"] == 6
    assert set(result.metrics["seen"]["class_head"]) == {"top1", "top5"}
    assert "class_head" not in result.metrics["unseen"]  # other classes: the head says nothing of them
    assert json.loads((tmp_path / "run" / "result.json").read_text())["metrics"] == result.metrics
    assert build(Recipe, read_yaml(tmp_path / "run" / "config.yaml")) == recipe
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 9))  # 15 videos, 2 epochs, batches of 4
    assert {"loss", "contrastive", "visual", "lr", "grad_norm", "data_wait"} <= lines[0].keys()
    model = load_model(tmp_path / "run")
    assert model.heads.classes == ("star moving left", "star moving right", "fish moving left")
    assert model.info["step"] == 8
    uses = ("15 to train on", "6 for the test at the end (seen)", "4 for the test at the end (unseen)")
    assert reporter.messages[0] == f"25 videos, 3 classes: {'; '.join(uses)}"
    assert "parameters are trained" in reporter.messages[1]


@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path, quick_recipe, reporter, stop_at):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(quick_recipe(), whole, resume=False, reporter=reporter)

    reporter.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == stop_at else None
    with pytest.raises(
        Interrupted, match=f"stopped after step {stop_at}; continue with the same command and --resume"
    ):
        train(quick_recipe(), parted, resume=False, reporter=reporter)
    reporter.on_step = lambda step: None
    train(quick_recipe(), parted, resume=True, reporter=reporter)
    assert f"resuming at step {stop_at} of 8" in reporter.messages
    assert same_weights(whole, parted)
    assert without_clock(metrics(whole)) == without_clock(metrics(parted))


class KilledError(Exception):
    """Stands for a process that ends without a chance to save."""


def test_a_run_that_died_between_saves_goes_on_from_the_last(tmp_path, quick_recipe, reporter):
    whole, died = tmp_path / "whole", tmp_path / "died"
    train(quick_recipe(), whole, resume=False, reporter=reporter)

    def die(step):
        if step == 7:
            raise KilledError

    reporter.on_step = die
    with pytest.raises(KilledError):
        train(quick_recipe(), died, resume=False, reporter=reporter)
    with (died / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # a line cut short
    reporter.on_step = lambda step: None
    train(quick_recipe(), died, resume=True, reporter=reporter)
    assert same_weights(whole, died)
    assert without_clock(metrics(whole)) == without_clock(metrics(died))


def flip_a_weight(content):
    """One bit of a tensor's values: nothing but a checksum tells."""
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [lambda content: content[:1000], flip_a_weight, lambda content: b""])
def test_a_damaged_last_state_falls_back_to_the_one_before(tmp_path, quick_recipe, reporter, damage):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    train(quick_recipe(), whole, resume=False, reporter=reporter)
    reporter.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None
    with pytest.raises(Interrupted):
        train(quick_recipe(), folder, resume=False, reporter=reporter)
    reporter.on_step = lambda step: None
    newest = max((folder / "states").iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    train(quick_recipe(), folder, resume=True, reporter=reporter)
    assert any("is damaged" in message and newest.name in message for message in reporter.messages)
    assert same_weights(whole, folder)


def test_resuming_with_more_workers_changes_nothing(tmp_path, quick_recipe, reporter):
    train(quick_recipe(), tmp_path / "one", resume=False, reporter=reporter)
    train(quick_recipe("data.workers=2"), tmp_path / "two", resume=False, reporter=reporter)
    assert same_weights(tmp_path / "one", tmp_path / "two")


def test_micro_batches_add_up_to_the_batch(tmp_path, quick_recipe, reporter):
    settings = ("task.contrastive=0", "task.masked_words=0", "task.head_dropout=0", "run.epochs=0.5")
    train(quick_recipe(*settings), tmp_path / "whole", resume=False, reporter=reporter)
    train(quick_recipe(*settings, "run.accumulate=4"), tmp_path / "cut", resume=False, reporter=reporter)
    whole, cut = metrics(tmp_path / "whole"), metrics(tmp_path / "cut")
    for one, other in zip(whole, cut, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_folders_that_exist_are_left_alone(tmp_path, quick_recipe, reporter):
    train(quick_recipe(), tmp_path / "run", resume=False, reporter=reporter)
    with pytest.raises(VactkError, match="already holds a run; continue it with --resume"):
        train(quick_recipe(), tmp_path / "run", resume=False, reporter=reporter)
    with pytest.raises(VactkError, match=r"had other settings: optim\.lr was .*, now 0\.5"):
        train(quick_recipe("optim.lr=0.5"), tmp_path / "run", resume=True, reporter=reporter)
    finished = train(quick_recipe("data.workers=1"), tmp_path / "run", resume=True, reporter=reporter)
    assert finished.metrics["seen"]["num_videos"] == 6
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(VactkError, match="exists and holds no run"):
        train(quick_recipe(), tmp_path / "other", resume=True, reporter=reporter)


def test_broken_training_videos_are_skipped_counted_and_listed(tmp_path, quick_recipe, reporter):
    train(quick_recipe(), tmp_path / "first", resume=False, reporter=reporter)  # makes the clips
    video = next((tmp_path / "cache").rglob("train/fish*_003.mp4"))
    size = video.stat().st_size
    video.write_bytes(b"\0" * size)
    result = train(quick_recipe(), tmp_path / "second", resume=False, reporter=reporter)
    assert len(result.failed) == 1
    assert video.name in result.failed[0]
    with pytest.raises(
        VactkError, match=r"1 of 15 training videos cannot be read, more than run\.max_failed=0\.05"
    ):
        train(quick_recipe("run.max_failed=0.05"), tmp_path / "third", resume=False, reporter=reporter)


def test_a_full_disk_ends_the_run_with_the_states_before_it_intact(
    tmp_path, quick_recipe, reporter, monkeypatch
):
    from vactk.train import run_dir

    real, saved = torch.save, []

    def full(state, path):
        if len(saved) == 2:
            path.write_bytes(b"half")
            raise RuntimeError(
                "[enforce fail at inline_container.cc] . PytorchStreamWriter failed: No space left"
            )
        saved.append(path)
        real(state, path)

    monkeypatch.setattr(run_dir.torch, "save", full)
    with pytest.raises(VactkError, match=r"cannot write '.*step-.*\.pt': .*free some space"):
        train(quick_recipe(), tmp_path / "run", resume=False, reporter=reporter)
    monkeypatch.setattr(run_dir.torch, "save", real)
    assert len(list((tmp_path / "run" / "states").iterdir())) == 2
    train(quick_recipe(), tmp_path / "run", resume=True, reporter=reporter)


def test_metrics_reach_tensorboard(tmp_path, quick_recipe, reporter):
    pytest.importorskip("tensorboard")
    train(
        quick_recipe("run.tracker=tensorboard", "run.epochs=0.5"),
        tmp_path / "run",
        resume=False,
        reporter=reporter,
    )
    assert list((tmp_path / "run" / "logs").rglob("events.out.tfevents.*"))


def test_a_tracker_that_is_not_installed_names_its_extra(tmp_path, quick_recipe, reporter, monkeypatch):
    from vactk.train import trainer

    monkeypatch.setattr(trainer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VactkError, match=r"run\.tracker=wandb needs a package: pip install 'vactk\[wandb\]'"):
        train(quick_recipe("run.tracker=wandb"), tmp_path / "run", resume=False, reporter=reporter)


def test_nothing_to_train_is_said(tmp_path, quick_recipe, reporter):
    settings = ("model.temporal=none", "task.visual=0", "task.masked_words=0", "model.frame_adapter.enabled=false",
                "model.text_adapter.layers=0")  # fmt: skip
    with pytest.raises(VactkError, match="nothing is trained"):
        train(quick_recipe(*settings), tmp_path / "run", resume=False, reporter=reporter)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, quick_recipe, reporter):
    with pytest.raises(VactkError, match=r"loss nan.*5 consecutive steps skipped: lower optim\.lr"):
        train(
            quick_recipe("optim.lr=1e30", "optim.warmup_epochs=0"),
            tmp_path / "run",
            resume=False,
            reporter=reporter,
        )


def test_two_processes_do_not_work_on_one_run(tmp_path, quick_recipe, reporter):
    def second(step):
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()

        def start():
            try:
                train(quick_recipe("run.epochs=0.5"), tmp_path / "run", resume=True, reporter=reporter)
            except VactkError as error:
                theirs.send(str(error))

        child = context.Process(target=start)
        child.start()
        said.append(ours.recv() if ours.poll(30) else None)
        child.kill()
        child.join()
        reporter.on_step = lambda step: None

    said = []
    reporter.on_step = second
    train(quick_recipe("run.epochs=0.5"), tmp_path / "run", resume=False, reporter=reporter)
    assert said == [f"another process is running in '{tmp_path / 'run'}'"]


def test_batches_larger_than_the_data_are_cut_to_it_in_words(tmp_path, quick_recipe, reporter):
    train(quick_recipe("run.batch_size=64"), tmp_path / "run", resume=False, reporter=reporter)
    assert "batch size 15 instead of 64: there are only 15 training videos" in reporter.messages
    assert len(metrics(tmp_path / "run")) == 2  # one of each epoch
    assert load_model(tmp_path / "run").info["recipe"]["run"]["batch_size"] == 15


def interrupted_while_hanging(recipe, folder, hangs, number, *, healthy, until):
    """Train until a worker hangs and `until` holds; how long the process takes to end after the signal."""

    def run():
        try:
            train(recipe, folder, resume=False, reporter=Quiet())
        except Interrupted as interrupted:
            print(interrupted)
            raise SystemExit(130) from None

    with started(run, hangs, healthy=healthy) as process:
        hanging(hangs)
        wait_until(until)
        seconds = seconds_until_end(process, number)
    assert process.exitcode == 130, hangs.with_suffix(".log").read_text()
    return seconds


@pytest.mark.parametrize(  # the third batch never comes, or measuring never ends
    ("number", "healthy", "lines"), [(signal.SIGTERM, 9, 3), (signal.SIGINT, "training", 2)]
)
def test_signals_are_heard_while_a_video_hangs(tmp_path, quick_recipe, reporter, number, healthy, lines):
    recipe = quick_recipe("data.workers=1", "run.eval_every=0.5", "run.save_every=9", "run.epochs=1")
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(recipe, whole, resume=False, reporter=reporter)
    seconds = interrupted_while_hanging(
        recipe,
        parted,
        tmp_path / "hangs",
        number,
        healthy=healthy,
        until=lambda: (parted / "metrics.jsonl").exists() and len(metrics(parted)) == lines,
    )
    assert seconds < WITHIN_S
    assert "stopped after step 2;" in (tmp_path / "hangs.log").read_text()
    train(recipe, parted, resume=True, reporter=reporter)
    assert "resuming at step 2 of 4" in reporter.messages
    assert same_weights(whole, parted)
    assert without_clock(metrics(whole)) == without_clock(metrics(parted))
