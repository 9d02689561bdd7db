"""A training run from its recipe to its result."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vactk import config as settings
from vactk.checkpoints.checkpoint import save_model
from vactk.data.records import VideoSet
from vactk.distributed import broadcast_object, on_any_process, process_state
from vactk.errors import RestartError, VactkError
from vactk.evaluate.protocol_splits import split_data
from vactk.evaluate.zero_shot import evaluate_protocol
from vactk.files.atomic import write_text
from vactk.interrupt import Stopped, at_once, interruptible
from vactk.progress import Reporter
from vactk.train.fsdp import unshard_model
from vactk.train.recipe import Recipe
from vactk.train.run_dir import RunDir
from vactk.train.setup import build_trainer, load_splits
from vactk.train.stability import Monitor, MoreMicroBatchesError, SkippedStep, deterministic
from vactk.train.trainer import Trainer

LAST = "last.safetensors"  # the weights of the last step, where model.safetensors has averaged ones


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished run; scripts rely on the keys."""

    run_dir: str
    checkpoint: str
    epochs: float
    videos_per_s: float
    data_wait: float  # share of the training time spent waiting for videos
    metrics: dict[str, Any]  # split -> {"top1", "top5", "class_head": {...}, "ensemble": {...}}, percentages
    failed: list[str]  # training videos that could not be read
    skipped: int = 0  # steps without an update, because loss or gradient was not finite


class Interrupted(KeyboardInterrupt):
    """Raised once the state is saved after a signal; the message says how to continue."""


def train(recipe: Recipe, output: Path, *, resume: bool, reporter: Reporter) -> TrainResult:
    """Train by `recipe` in the run folder `output`, and evaluate the result.

    With `resume`, an unfinished run in `output` continues exactly from its last saved state, and a finished
    one returns its result. Raises VactkError; Interrupted once the state is saved after Ctrl-C or SIGTERM.
    """
    with deterministic(recipe.run.deterministic):
        is_writer = process_state(recipe.run.device).is_main_process
        # the name of a new folder has the time in it, and may differ between processes
        run_dir = RunDir(Path(broadcast_object(str(output))), is_writer=is_writer)
        run_dir.open(recipe, resume=resume)
        finished = run_dir.finished()
        if finished is not None:
            reporter.message(f"the run in '{output}' is finished")
            return TrainResult(**finished)
        videos, splits = load_splits(recipe, reporter)
        trainer = build_trainer(recipe, videos, run_dir, reporter)
        with interruptible():
            return _train_and_evaluate(trainer, splits, run_dir, reporter)


def _train_and_evaluate(
    trainer: Trainer, splits: list[VideoSet], run_dir: RunDir, reporter: Reporter
) -> TrainResult:
    try:
        _take_steps(trainer, splits, run_dir, reporter)
        return _finish(trainer, splits, run_dir, reporter)
    except Stopped:
        step = trainer.progress.step
        if run_dir.saved_step != step:
            run_dir.save_state(step, trainer.state.state_dict())
            on_any_process(
                False, trainer.accelerator
            )  # wait for the others: a launcher ends them after the first
        raise Interrupted(f"stopped after step {step}; continue with the same command and --resume") from None
    except MoreMicroBatchesError as error:
        arguments = (f"run.accumulate={error.micro_batches}", "--resume", "--output", str(run_dir.path))
        raise RestartError(str(error), arguments) from error


def _take_steps(trainer: Trainer, splits: list[VideoSet], run_dir: RunDir, reporter: Reporter) -> None:
    """Train up to the last step; after each step log, save and evaluate as the schedule says."""
    schedule, monitor = trainer.schedule, Monitor(reporter.message)
    start = trainer.progress.step
    lacks_evaluation = run_dir.is_writer and not run_dir.has_evaluation(start)
    if schedule.evaluates(start) and on_any_process(lacks_evaluation, trainer.accelerator):
        run_dir.append_metrics(_evaluation_line(trainer, splits, reporter))
    with contextlib.closing(trainer.steps()) as results:
        for result in results:
            step, epoch = result.step, schedule.epoch(result.step)
            if result.skipped is not None:
                _report_skipped(trainer, result.skipped, run_dir, reporter)
            reporter.step(step, schedule.total_steps, epoch, result.metrics)
            monitor.check(step, result.metrics)
            if schedule.logs(step):
                trainer.accelerator.log(result.metrics, step=step)
                run_dir.append_metrics({"step": step, "epoch": epoch, **result.metrics})
            if schedule.saves(step):
                run_dir.save_state(step, trainer.state.state_dict())
            if schedule.evaluates(step):
                run_dir.append_metrics(_evaluation_line(trainer, splits, reporter))


def _finish(trainer: Trainer, splits: list[VideoSet], run_dir: RunDir, reporter: Reporter) -> TrainResult:
    """Evaluate and save the trained model: its averaged weights, where the recipe asks for an average."""
    averaged: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if trainer.average is not None:
        _save_model(trainer, run_dir, run_dir.path / LAST, num_averaged=0)
        averaged = trainer.average.in_place()
    with averaged:
        metrics = _evaluate(trainer, splits, reporter)
        num_averaged = trainer.average.count if trainer.average else 0
        _save_model(trainer, run_dir, run_dir.checkpoint, num_averaged=num_averaged)
    for line in trainer.feed.note_lines():
        reporter.message(line)
    failed = trainer.progress.failed
    result = TrainResult(
        run_dir=str(run_dir.path),
        checkpoint=str(run_dir.checkpoint),
        epochs=trainer.recipe.run.epochs,
        **trainer.feed.throughput.rates(),
        metrics=metrics,
        failed=[failed[place] for place in sorted(failed)],
        skipped=trainer.progress.skipped,
    )
    if run_dir.is_writer:
        write_text(run_dir.result, json.dumps(asdict(result), indent=2) + "\n")
    trainer.accelerator.end_training()
    return result


def _report_skipped(trainer: Trainer, skipped: SkippedStep, run_dir: RunDir, reporter: Reporter) -> None:
    """Log the videos of a skipped step. Raises VactkError when too many steps were skipped."""
    videos = [str(trainer.dataset.records[place].video) for place in skipped.places]
    numbers = {"loss": str(skipped.loss), "grad_norm": str(skipped.grad_norm)}  # not finite: no JSON numbers
    run_dir.append_skipped({"step": skipped.step, **numbers, "videos": videos})
    allowed = trainer.recipe.run.max_skipped
    what = f"step {skipped.step} skipped: loss {skipped.loss:.4g}, gradient norm {skipped.grad_norm:.4g}"
    problem = skipped.problem(allowed)
    if problem is not None:
        raise VactkError(
            f"{what}; {problem}: lower optim.lr, use fp32, or check the videos listed in '{run_dir.skipped}'"
        )
    reporter.message(f"{what} ({skipped.count} of {allowed} allowed); its videos are in '{run_dir.skipped}'")


def _evaluation_line(trainer: Trainer, splits: list[VideoSet], reporter: Reporter) -> dict[str, Any]:
    """Evaluate between steps, and return the line of metrics.jsonl."""
    step = trainer.progress.step
    found = _evaluate(trainer, splits, reporter)
    return {"step": step, "epoch": trainer.schedule.epoch(step), "evaluation": found}


def _evaluate(trainer: Trainer, splits: list[VideoSet], reporter: Reporter) -> dict[str, Any]:
    """Evaluate the model on each split, and return the metrics by split."""
    found = {}
    for videos in splits:
        model = unshard_model(trainer.model, trainer.accelerator)
        progress = reporter.progress(f"{videos.name}: evaluating {videos.split}")
        with at_once():
            result = evaluate_protocol(
                model, split_data(videos), trainer.recipe.evaluation, trainer.accelerator, progress=progress
            )
        found[videos.split] = result.to_json()
    return found


def _save_model(trainer: Trainer, run_dir: RunDir, path: Path, *, num_averaged: int) -> None:
    """Write a checkpoint. All processes must call it."""
    recipe, model = trainer.recipe, unshard_model(trainer.model, trainer.accelerator)
    if not run_dir.is_writer:
        return
    info = {
        "recipe": settings.to_dict(recipe),
        "dataset": recipe.dataset,
        "num_frames": recipe.data.num_frames,
        "templates": recipe.templates,
        "step": trainer.progress.step,
        "parents": [recipe.start] if recipe.start else [],
        "averaged": num_averaged,
    }
    save_model(path, model, towers=recipe.task.towers, info=info)
