"""Losses that are not finite, memory that runs out, and what a run keeps of itself."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.train.conftest import poison
from vactk.errors import VactkError
from vactk.train.forward_backward import ForwardBackward
from vactk.train.run import train
from vactk.train.stability import CUBLAS, Monitor, SkippedStep, deterministic, is_out_of_memory, memory_advice
from vactk.train.trainer import Trainer


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def poisoned(monkeypatch):
    """Losses that are NaN at the steps in the list that this gives."""
    steps: list[int] = []
    poison(monkeypatch, lambda passes, step: step in steps)
    return steps


@pytest.mark.usefixtures("small_shapes")
def test_a_step_without_a_finite_loss_is_left_out_counted_and_its_videos_kept(
    tmp_path, quick_recipe, reporter, poisoned
):
    poisoned += [3, 5]
    result = train(quick_recipe(), tmp_path / "run", resume=False, reporter=reporter)
    assert result.skipped == 2
    first, second = lines(tmp_path / "run" / "skipped.jsonl")
    assert (first["step"], second["step"]) == (3, 5)
    assert first["loss"] == "nan"
    assert len(first["videos"]) == 4
    assert all(name.endswith(".mp4") for name in first["videos"])
    logged = lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in logged] == list(range(1, 9))
    assert logged[2]["skipped"] == 1
    assert "loss" not in logged[2]
    assert all(
        tensor.isfinite().all() for tensor in load_file(tmp_path / "run" / "model.safetensors").values()
    )
    assert any("step 3 skipped: loss nan" in message for message in reporter.messages)


@pytest.mark.usefixtures("small_shapes")
def test_weights_are_as_before_a_step_that_is_left_out(tmp_path, quick_recipe, reporter, poisoned):
    kept = {}
    poisoned.append(2)
    reporter.on_step = lambda step: None
    real = Trainer._check_weights

    def remember(self):
        kept["before"] = {n: t.clone() for n, t in self.modules.state_dict().items()}
        real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_check_weights", remember)
        train(quick_recipe("run.epochs=0.5"), tmp_path / "run", resume=False, reporter=reporter)
    ended = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(ended[name], kept["before"][name]) for name in ended)


@pytest.mark.usefixtures("small_shapes")
def test_too_many_such_steps_stop_the_run(tmp_path, quick_recipe, reporter, poisoned):
    poisoned += [2, 4, 6]
    with pytest.raises(VactkError, match=r"3 steps skipped, more than run\.max_skipped=2: lower optim\.lr"):
        train(quick_recipe("run.max_skipped=2"), tmp_path / "run", resume=False, reporter=reporter)
    poisoned[:] = [1, 2, 3, 4, 5, 6]
    with pytest.raises(VactkError, match="5 consecutive steps skipped"):
        train(quick_recipe(), tmp_path / "other", resume=False, reporter=reporter)


@pytest.mark.usefixtures("small_shapes")
def test_weights_that_are_not_finite_stop_the_run_at_once(tmp_path, quick_recipe, reporter, poisoned):
    def spoil(step):
        if step == 2:
            with torch.no_grad():
                next(p for p in spoiled[0].modules.parameters() if p.requires_grad).fill_(torch.inf)
            poisoned.append(3)

    spoiled = []
    real = Trainer.__init__
    reporter.on_step = spoil
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Trainer,
            "__init__",
            lambda self, *args, **more: (spoiled.append(self), real(self, *args, **more))[1],
        )
        with pytest.raises(VactkError, match="loss and weights are not finite at step 3"):
            train(quick_recipe(), tmp_path / "run", resume=False, reporter=reporter)


@pytest.fixture
def small_memory(monkeypatch):
    """A machine on which no more than 2 videos fit."""
    real = ForwardBackward.losses

    def losses(self, batch):
        if len(batch.indices) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")
        return real(self, batch)

    monkeypatch.setattr(ForwardBackward, "losses", losses)


@pytest.mark.usefixtures("small_shapes", "small_memory")
def test_out_of_memory_says_what_helps(tmp_path, quick_recipe, reporter):
    with pytest.raises(VactkError) as error:
        train(quick_recipe(), tmp_path / "run", resume=False, reporter=reporter)
    message = str(error.value)
    assert "out of memory at step 1, with 4 videos at a time (CUDA out of memory" in message
    assert "run.accumulate=2 (or run.auto_accumulate=true)" in message
    assert "run.gradient_checkpointing=true" in message
    result = train(quick_recipe("run.accumulate=2"), tmp_path / "run", resume=True, reporter=reporter)
    assert result.metrics


@pytest.mark.usefixtures("small_shapes")
def test_micro_batches_are_halved_where_memory_runs_out_and_the_batch_stays(
    tmp_path, quick_recipe, reporter, request
):
    settings = ("task.contrastive=0", "run.epochs=1", "run.save_every=0.5")
    train(quick_recipe(*settings), tmp_path / "whole", resume=False, reporter=reporter)
    request.getfixturevalue("small_memory")
    auto = quick_recipe(*settings, "run.auto_accumulate=true")
    train(auto, tmp_path / "halved", resume=False, reporter=reporter)
    assert any("split into 2 micro-batches of 2 videos" in message for message in reporter.messages)
    one, other = (lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "halved"))
    assert [line["step"] for line in one] == [line["step"] for line in other]
    for a, b in zip(one, other, strict=True):
        # all that is random comes with the videos, and so the batches are the same to rounding; but the number
        # of masked words is a mean over micro-batches
        assert a["visual"] == pytest.approx(b["visual"], rel=1e-3)
        assert a["cross_modal"] == pytest.approx(b["cross_modal"], rel=1e-3)


@pytest.mark.usefixtures("small_shapes", "small_memory")
def test_halving_goes_on_after_a_resume_and_ends_at_one_video(tmp_path, quick_recipe, reporter, monkeypatch):
    class StopError(Exception):
        pass

    def stop(step):
        if step == 3:
            raise StopError

    reporter.on_step = stop
    auto = quick_recipe("run.auto_accumulate=true", "run.save_every=0.25")
    with pytest.raises(StopError):
        train(auto, tmp_path / "run", resume=False, reporter=reporter)
    reporter.on_step = lambda step: None
    reporter.messages.clear()
    train(auto, tmp_path / "run", resume=True, reporter=reporter)
    assert not any("out of memory" in message for message in reporter.messages)

    def never_fits(self, batch):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(ForwardBackward, "losses", never_fits)
    with pytest.raises(VactkError, match="with 1 videos at a time"):
        train(auto, tmp_path / "other", resume=False, reporter=reporter)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert "accumulate" not in memory_advice(
        micro_batches=4, num_videos=1, checkpointing=True, precision="bf16"
    )


@pytest.mark.parametrize(
    ("count", "in_a_row", "expected"),
    [(3, 1, None), (4, 1, "max_skipped=3"), (2, 5, "5 consecutive steps skipped")],
)
def test_how_many_skipped_steps_are_too_many(count, in_a_row, expected):
    problem = SkippedStep(9, float("nan"), 1.0, [], count, in_a_row).problem(3)
    assert problem is None if expected is None else expected in str(problem)


@pytest.mark.usefixtures("small_shapes")
def test_a_run_says_what_it_was_made_with(tmp_path, quick_recipe, reporter):
    def stop(step):
        if step == 3:
            raise KeyError

    reporter.on_step = stop
    with pytest.raises(KeyError):
        train(quick_recipe("run.seed=7"), tmp_path / "run", resume=False, reporter=reporter)
    reporter.on_step = lambda step: None
    train(quick_recipe("run.seed=7"), tmp_path / "run", resume=True, reporter=reporter)
    first, second = json.loads((tmp_path / "run" / "run.json").read_text())["segments"]
    assert (first["from_step"], second["from_step"]) == (0, 2)
    assert first["seed"] == 7
    assert first["versions"]["torch"] == torch.__version__
    assert first["processes"] == 1
    assert {"host", "gpus"} <= first["machine"].keys()
    assert first["command"]
    assert first["git"] is None or len(first["git"]["commit"]) == 40


@pytest.mark.usefixtures("small_shapes")
def test_deterministic_runs_are_equal_to_the_last_bit(tmp_path, quick_recipe, reporter):
    for name in ("one", "two"):
        train(quick_recipe("run.deterministic=true"), tmp_path / name, resume=False, reporter=reporter)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_cannot_be_deterministic_is_refused(monkeypatch):
    monkeypatch.delenv(CUBLAS, raising=False)
    with (
        pytest.raises(VactkError, match=r"run\.deterministic=true is not possible here: put_"),
        deterministic(True),
    ):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
    with pytest.raises(RuntimeError, match="shape"), deterministic(True):
        torch.ones(3) @ torch.ones(4).view(2, 2)


def test_the_monitor_warns_of_waiting_and_of_spikes_once():
    warnings: list[str] = []
    monitor = Monitor(warnings.append)
    for step in range(1, 101):
        monitor.check(step, {"grad_norm": 1.0 + 0.1 * (step % 3), "data_wait": 0.1})
    assert warnings == []
    for step in (101, 102):
        monitor.check(step, {"grad_norm": 100.0, "data_wait": 0.1})
        monitor.check(step, {"grad_norm": 1.0, "data_wait": 0.5})
        monitor.check(step, {"skipped": 1, "data_wait": 0.5})
    assert len(warnings) == 2
    assert warnings[0].startswith("step 101: gradient norm 100, usually 1.1")
    assert warnings[1].startswith("50% of the time is spent waiting")
