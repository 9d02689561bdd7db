from __future__ import annotations

import pytest

from vactk.train.schedule import TrainSchedule


def test_steps_are_logged_saved_and_evaluated_when_the_recipe_says(quick_recipe):
    recipe = quick_recipe("run.save_every=1", "run.eval_every=0.5", "run.log_every=3")
    schedule = TrainSchedule(recipe, num_videos=16)
    assert (schedule.total_steps, schedule.steps_per_epoch) == (8, 4)  # 2 epochs, batches of 4
    steps = range(9)
    assert [step for step in steps if schedule.logs(step)] == [0, 3, 6, 8]
    assert [step for step in steps if schedule.evaluates(step)] == [2, 4, 6]  # after the last one anyway
    assert [step for step in steps if schedule.saves(step)] == [0, 2, 4, 6, 8]
    assert schedule.epoch(6) == 1.5


def test_the_learning_rate_warms_up_to_its_peak_for_the_batch_size_and_decays(quick_recipe):
    optim = ("optim.lr=1e-2", "optim.base_batch_size=8", "optim.warmup_epochs=1")
    recipe = quick_recipe(*optim, "optim.warmup_start_factor=0.2", "optim.min_lr_factor=0.1", "run.epochs=3")
    schedule = TrainSchedule(recipe, num_videos=16)
    rates = [schedule.lr(step) for step in range(13)]
    assert rates[:5] == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 5e-3])
    assert rates[8] == pytest.approx(5e-3 * (0.1 + 0.9 * 0.5))
    assert rates[12] == pytest.approx(5e-4)
    assert sorted(rates[4:], reverse=True) == rates[4:]


def test_runs_that_are_shorter_than_their_intervals_save_and_evaluate_at_the_end(quick_recipe):
    schedule = TrainSchedule(quick_recipe("run.epochs=0.1", "run.save_every=5"), num_videos=16)
    assert schedule.total_steps == 1
    assert schedule.saves(1)
    assert not schedule.evaluates(1)


def test_few_videos_take_more_epochs_and_shares_of_the_run_stay_shares(quick_recipe):
    settings = ("run.min_steps=100", "run.evaluations=4", "run.save_every=0", "optim.warmup_share=0.1")
    schedule = TrainSchedule(quick_recipe(*settings), num_videos=16)
    assert (schedule.total_steps, schedule.warmup_steps) == (100, 10)
    steps = range(1, 101)
    assert [step for step in steps if schedule.evaluates(step)] == [20, 40, 60, 80]
    assert [step for step in steps if schedule.saves(step)] == [20, 40, 60, 80, 100]
    many = TrainSchedule(quick_recipe(*settings), num_videos=1600)
    assert (many.total_steps, many.warmup_steps) == (800, 80)  # 2 epochs of batches of 4


def test_averages_end_with_the_last_of_the_least_steps(quick_recipe):
    recipe = quick_recipe("run.min_steps=100", "average.every_epochs=10")
    assert TrainSchedule(recipe, num_videos=16).averaged_steps == {40, 80, 100}


def test_larger_towers_take_smaller_steps(quick_recipe):
    recipe = quick_recipe("optim.lr=1e-4", "optim.base_tower_size=9216", "optim.warmup_epochs=0")
    rates = [TrainSchedule(recipe, 16, size).lr(0) for size in (9216, 64 * 3, 1024 * 24)]
    assert rates == pytest.approx([1e-4, 4.8e-3, 3.75e-5])
