"""Runs that train CLIP's own weights: interpolated passes, averages, other starts."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from vactk.checkpoints.checkpoint import load_model
from vactk.config import build, merge, parse_overrides
from vactk.errors import VactkError
from vactk.recipes import read_recipe
from vactk.train.recipe import Recipe
from vactk.train.run import LAST, Interrupted, train

pytestmark = pytest.mark.usefixtures("small_shapes")
QUICK = [
    "data.workers=0",
    "data.num_frames=2",
    "run.batch_size=4",
    "run.epochs=2",
    "run.save_every=0.5",
    "average.start_epoch=0.5",
    "average.every_epochs=0.25",
]


def recipe(*changes):
    return build(Recipe, merge(read_recipe("openvclip-shapes"), parse_overrides([*QUICK, *changes])))


def weights(folder, name="model.safetensors"):
    return load_file(folder / name)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("module", ["neighbour_attention", "ted_adapter", "cross_frame_attention"])
def test_a_run_moves_the_vision_tower_and_leaves_the_text_tower_alone(tmp_path, reporter, module):
    train(recipe(f"model.temporal={module}"), tmp_path / "run", resume=False, reporter=reporter)
    assert {"interpolated_loss", "alpha"} <= reporter.steps[0].keys()
    assert len({step["alpha"] for step in reporter.steps}) == len(reporter.steps)
    found = weights(tmp_path / "run")
    assert not any(name.startswith("clip.transformer") for name in found)
    assert "clip.visual.proj" in found
    assert "clip.logit_scale" in found


def test_an_interrupted_run_goes_on_to_the_same_average(tmp_path, reporter):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(recipe(), whole, resume=False, reporter=reporter)
    reporter.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None
    with pytest.raises(Interrupted):
        train(recipe(), parted, resume=False, reporter=reporter)
    reporter.on_step = lambda step: None
    train(recipe(), parted, resume=True, reporter=reporter)
    assert same(weights(whole), weights(parted))
    assert same(weights(whole, LAST), weights(parted, LAST))
    assert not same(weights(whole), weights(whole, LAST))


def test_the_saved_average_is_the_mean_of_the_weights_on_the_way(tmp_path, reporter):
    settings = (
        "average.every_epochs=0",
        "average.every_steps=2",
        "average.start_epoch=0",
        "run.save_every=0.01",
    )
    seen = []

    def keep(step):
        if step % 2 == 0:
            state = torch.load(tmp_path / "run" / "states" / f"step-{step:09d}.pt", weights_only=True)
            seen.append(state["modules"]["clip.visual.proj"])

    train(recipe(*settings), tmp_path / "again", resume=False, reporter=reporter)
    steps = len(reporter.steps)
    reporter.on_step = lambda step: keep(step - 1) if step > 1 else None  # a state is saved after its step
    train(recipe(*settings), tmp_path / "run", resume=False, reporter=reporter)
    keep(steps)
    model = load_model(tmp_path / "run")
    assert model.info["averaged"] == len(seen) == steps // 2
    torch.testing.assert_close(model.video_clip.backbone.visual.proj.detach(), torch.stack(seen).mean(0))


def test_a_run_may_start_from_another_ones_result(tmp_path, reporter):
    first, second = tmp_path / "first", tmp_path / "second"
    ted = "model.temporal=ted_adapter"
    train(recipe(ted, "interpolated.weight=0"), first, resume=False, reporter=reporter)
    start = (ted, f"start={first}", "optim.lr=1e-12", "run.epochs=0.3")
    train(recipe(*start), second, resume=False, reporter=reporter)
    one, two = weights(first), weights(second)
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
    assert load_model(second).info["initial"] == load_model(first).info["initial"]
    assert load_model(second).info["parents"] == [str(first)]


def test_a_start_with_modules_that_the_model_lacks_is_refused(tmp_path, reporter):
    ted = "model.temporal=ted_adapter"
    train(recipe(ted, "run.epochs=0.3"), tmp_path / "first", resume=False, reporter=reporter)
    with pytest.raises(VactkError, match="the model to train has no 'temporal"):
        train(recipe(f"start={tmp_path / 'first'}"), tmp_path / "second", resume=False, reporter=reporter)


def test_gradient_checkpointing_and_pieces_of_a_batch_change_nothing(tmp_path, reporter):
    plain = ("model.temporal=ted_adapter", "run.epochs=0.6", "average.every_epochs=0")
    train(recipe(*plain), tmp_path / "plain", resume=False, reporter=reporter)
    changed = ("run.gradient_checkpointing=true", "run.accumulate=2")
    train(recipe(*plain, *changed), tmp_path / "changed", resume=False, reporter=reporter)
    one, two = weights(tmp_path / "plain"), weights(tmp_path / "changed")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-4)


def test_both_passes_of_a_step_see_the_same_templates(tmp_path, reporter):
    """Mixed with nothing of the original weights, the second pass is the first one over again."""
    both = ("task.towers=[vision, text]", "templates=openvclip", "interpolated.alphas=[0, 0]")
    train(recipe(*both), tmp_path, resume=False, reporter=reporter)
    assert reporter.steps
    for step in reporter.steps:
        assert step["interpolated_loss"] == pytest.approx(step["loss"], rel=1e-6)
