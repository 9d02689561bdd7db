"""Several processes do what one does: the same steps, the same numbers, one run folder."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import run_processes
from tests.train.conftest import Quiet, poison
from vactk.config import build, merge, parse_overrides
from vactk.errors import RestartError, VactkError
from vactk.recipes import read_recipe
from vactk.train.forward_backward import ForwardBackward
from vactk.train.recipe import Recipe
from vactk.train.run import Interrupted, train

pytestmark = pytest.mark.usefixtures("small_shapes")
SIX = ("run.batch_size=6",)
CLOCK = ("videos_per_s", "data_wait")


def metrics(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in found]


def largest_difference(one, other):
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def on_processes(world, recipe, folder, *, resume=False, prepare=lambda rank, reporter: None):
    """Train on `world` processes: each one's result, or the error that it ended with."""

    def work(rank):
        reporter = Quiet()
        prepare(rank, reporter)
        try:
            return train(recipe, folder, resume=resume, reporter=reporter)
        except (VactkError, KeyboardInterrupt) as error:
            return error

    return run_processes(world, work)


@pytest.mark.parametrize("settings", [(), ("run.accumulate=2", "run.batch_size=12")])
def test_any_number_of_processes_trains_like_one(tmp_path, quick_recipe, settings):
    recipe = quick_recipe(*SIX, *settings)
    worlds = (1, 2, 3)
    for world in worlds:
        results = on_processes(world, recipe, tmp_path / str(world))
        assert len({json.dumps(result.metrics) for result in results}) == 1  # every process knows the result
    for world in worlds[1:]:
        assert largest_difference(tmp_path / "1", tmp_path / str(world)) < 2e-4
        for one, other in zip(metrics(tmp_path / "1"), metrics(tmp_path / str(world)), strict=True):
            assert one == pytest.approx(other, rel=2e-3, abs=1e-4)


def test_interpolated_passes_averages_and_text_towers_do_so_too(tmp_path):
    quick = ["data.workers=0", "data.num_frames=2", "run.epochs=1", "average.every_epochs=0.5", *SIX]
    quick += ["task.towers=[vision,text,scale]", "templates=openvclip", "task.contrastive=0.5"]
    recipe = build(Recipe, merge(read_recipe("openvclip-shapes"), parse_overrides(quick)))
    for world in (1, 2):
        on_processes(world, recipe, tmp_path / str(world))
    assert largest_difference(tmp_path / "1", tmp_path / "2") < 2e-4
    one, two = metrics(tmp_path / "1"), metrics(tmp_path / "2")
    assert one[-1] == pytest.approx(two[-1], rel=2e-3, abs=1e-4)
    assert one[0]["alpha"] == two[0]["alpha"]


def test_a_process_without_a_readable_video_keeps_step(tmp_path, quick_recipe, reporter):
    train(quick_recipe(*SIX, "run.epochs=0.1"), tmp_path / "makes_clips", resume=False, reporter=reporter)
    folder = next((tmp_path / "cache").rglob("train"))
    videos = sorted(folder.glob("*.mp4"))
    for video in videos[: len(videos) // 2]:
        video.write_bytes(b"\0" * video.stat().st_size)
    recipe = quick_recipe("run.batch_size=3", "run.max_failed=0.6")
    results = {world: on_processes(world, recipe, tmp_path / str(world)) for world in (1, 3)}
    assert len(results[1][0].failed) == len(videos) // 2
    for result in results[3]:
        assert result.failed == results[1][0].failed  # of all processes
        for split, metrics in result.metrics.items():
            alone = results[1][0].metrics[split]
            assert metrics["loss"] == pytest.approx(alone["loss"], rel=1e-3)
            assert [metrics[by] for by in ("top1", "class_head", "ensemble") if by in metrics] == [
                alone[by] for by in ("top1", "class_head", "ensemble") if by in metrics
            ]
    # a batch of three on three processes: many times one of them had nothing
    assert largest_difference(tmp_path / "1", tmp_path / "3") < 2e-4
    strict = quick_recipe("run.batch_size=3", "run.max_failed=0.2")
    errors = on_processes(3, strict, tmp_path / "strict")
    assert len({str(error) for error in errors}) == 1
    assert "training videos cannot be read, more than run.max_failed=0.2" in str(errors[0])


def test_ctrl_c_on_one_process_stops_and_saves_all(tmp_path, quick_recipe):
    recipe = quick_recipe(*SIX)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    on_processes(2, recipe, whole)

    def interrupt(rank, reporter):
        if rank == 1:
            reporter.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None
            reporter.step = lambda step, *rest: reporter.on_step(step)

    stopped = on_processes(2, recipe, parted, prepare=interrupt)
    assert all(isinstance(error, Interrupted) for error in stopped)
    assert "stopped after step 2" in str(stopped[0])
    on_processes(2, recipe, parted, resume=True)
    assert largest_difference(whole, parted) == 0
    assert metrics(whole) == metrics(parted)


def test_a_run_may_go_on_on_another_number_of_processes(tmp_path, quick_recipe):
    recipe = quick_recipe(*SIX)
    on_processes(1, recipe, tmp_path / "whole")

    def interrupt(rank, reporter):
        reporter.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 3 else None
        reporter.step = lambda step, *rest: reporter.on_step(step)

    on_processes(2, recipe, tmp_path / "parted", prepare=interrupt)
    on_processes(3, recipe, tmp_path / "parted", resume=True)
    assert largest_difference(tmp_path / "whole", tmp_path / "parted") < 2e-4
    segments = json.loads((tmp_path / "parted" / "run.json").read_text())["segments"]
    assert [segment["processes"] for segment in segments] == [2, 3]


def test_a_step_that_one_process_skips_is_skipped_by_all(tmp_path, quick_recipe, monkeypatch):
    poison(monkeypatch, lambda passes, step: step == 2 and passes.accelerator.process_index == 1)
    results = on_processes(2, quick_recipe(*SIX), tmp_path / "run")
    assert [result.skipped for result in results] == [1, 1]
    (line,) = [json.loads(text) for text in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert len(line["videos"]) == 6  # of both processes


def test_where_memory_runs_out_all_processes_can_begin_anew(tmp_path, quick_recipe, monkeypatch):
    real = ForwardBackward.losses

    def losses(self, batch):
        if len(batch.indices) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch)

    monkeypatch.setattr(ForwardBackward, "losses", losses)
    recipe = quick_recipe(*SIX, "run.batch_size=12", "run.auto_accumulate=true")
    errors = on_processes(2, recipe, tmp_path / "run")
    for error in errors:
        assert isinstance(error, RestartError)
        assert error.arguments == ("run.accumulate=2", "--resume", "--output", str(tmp_path / "run"))


FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


@pytest.mark.parametrize("family", ["m2clip-shapes", "openvclip-shapes"])
def test_sharded_weights_train_like_whole_ones(tmp_path, monkeypatch, family):
    """FSDP on CPU processes: weights, optimiser, averages and the interpolated pass in pieces, files whole."""
    quick = [
        "data.workers=0",
        "data.num_frames=2",
        "run.epochs=1",
        "run.save_every=0.5",
        "optim.lr=1e-3",
        *SIX,
    ]
    if family == "openvclip-shapes":
        quick += ["average.start_epoch=0", "average.every_epochs=0.5", "task.towers=[vision,text,scale]"]
    recipe = build(Recipe, merge(read_recipe(family), parse_overrides(quick)))
    on_processes(1, recipe, tmp_path / "whole")
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    results = on_processes(2, recipe, tmp_path / "sharded")
    assert results[0].metrics == results[1].metrics
    assert largest_difference(tmp_path / "whole", tmp_path / "sharded") < 2e-4
    segment = json.loads((tmp_path / "sharded" / "run.json").read_text())["segments"][0]
    assert segment["distributed"] == "FSDP"

    def interrupt(rank, reporter):
        reporter.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 1 else None
        reporter.step = lambda step, *rest: reporter.on_step(step)

    on_processes(2, recipe, tmp_path / "parted", prepare=interrupt)
    on_processes(2, recipe, tmp_path / "parted", resume=True)
    assert largest_difference(tmp_path / "sharded", tmp_path / "parted") == 0
    # and a run on sharded weights may go on on whole ones
    on_processes(2, recipe, tmp_path / "moved", prepare=interrupt)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    on_processes(1, recipe, tmp_path / "moved", resume=True)
    assert largest_difference(tmp_path / "whole", tmp_path / "moved") < 2e-4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"FSDP_VERSION": "1"}, "fsdp_version: 2"),
        (
            {
                "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
                "FSDP_TRANSFORMER_CLS_TO_WRAP": "ResidualAttentionBlock",
            },
            "fsdp_auto_wrap_policy: NO_WRAP",
        ),
    ],
)
def test_ways_of_sharding_that_do_not_fit_are_refused(tmp_path, monkeypatch, quick_recipe, changed, message):
    for name, value in {**FSDP, **changed}.items():
        monkeypatch.setenv(name, value)
    for error in on_processes(2, quick_recipe(*SIX), tmp_path / "run"):
        assert message in str(error)


def test_contrasting_ones_own_videos_makes_processes_equal_to_micro_batches(tmp_path, quick_recipe):
    apart = (*SIX, "task.gather=false", "task.masked_words=0")
    on_processes(1, quick_recipe(*apart, "run.accumulate=2"), tmp_path / "micro_batches")
    on_processes(2, quick_recipe(*apart), tmp_path / "processes")
    on_processes(2, quick_recipe(*SIX, "task.masked_words=0"), tmp_path / "gathered")
    losses = {
        name: [line["contrastive"] for line in metrics(tmp_path / name)]
        for name in ("micro_batches", "processes", "gathered")
    }
    assert losses["processes"] == pytest.approx(losses["micro_batches"], abs=1e-4)
    assert largest_difference(tmp_path / "micro_batches", tmp_path / "processes") < 2e-4
    assert losses["gathered"][0] > losses["processes"][0] + 0.01
