"""A training run from its recipe to its result."""

from __future__ import annotations

import contextlib
import math
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vactk import config as settings
from vactk.checkpoints.checkpoint import save_model
from vactk.data.records import VideoSet
from vactk.distributed import broadcast_object, end_training, on_any_process, process_state
from vactk.errors import RestartError, VactkError
from vactk.evaluate.protocol import retrieval_protocol
from vactk.evaluate.protocol_splits import split_data
from vactk.evaluate.report_files import save_predictions, save_report
from vactk.evaluate.retrieval import evaluate_retrieval, retrieval_data
from vactk.evaluate.zero_shot import Evaluated, score_protocol, summarize
from vactk.files.atomic import atomic_path, write_json
from vactk.interrupt import Stopped, at_once, interruptible
from vactk.models.video_model import VideoModel
from vactk.progress import Progress, Reporter
from vactk.train.fsdp import unshard_model
from vactk.train.recipe import Recipe
from vactk.train.run_dir import RunDir
from vactk.train.run_videos import RunVideos, load_run_videos
from vactk.train.run_warnings import chance_warnings, loss_warnings
from vactk.train.setup import build_trainer
from vactk.train.stability import Monitor, MoreMicroBatchesError, SkippedStep, deterministic
from vactk.train.trainer import Trainer
from vactk.weights.safetensors_file import load_exactly, read_tensors

BEST = "best.safetensors"  # the weights that held-out videos chose so far
LAST = "last.safetensors"  # the weights of the last step, where model.safetensors has averaged ones


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished run; scripts rely on the keys."""

    run_dir: str
    checkpoint: str
    epochs: float
    videos_per_s: float
    data_wait: float  # share of the training time spent waiting for videos
    # split -> {"top1", "top5", "class_head": {...}, "ensemble": {...}} or {"t2v": {...}, "v2t": {...}}, percentages
    metrics: dict[str, Any]
    failed: list[str]  # training videos that could not be read
    skipped: int = 0  # steps without an update, because loss or gradient was not finite
    videos: dict[str, Any] = field(default_factory=dict)  # what is trained on, held out and tested
    chosen: dict[str, Any] = field(
        default_factory=dict
    )  # "step" of the weights, and "by" what they were chosen
    steps: int = 0  # taken, of all that were planned unless patience ended
    warnings: list[str] = field(default_factory=list)  # reasons not to rely on the result


class Interrupted(KeyboardInterrupt):
    """Raised once the state is saved after a signal; the message says how to continue."""


def train(recipe: Recipe, output: Path, *, resume: bool, reporter: Reporter, origin: str = "") -> TrainResult:
    """Train by `recipe` in the run folder `output`, and evaluate the result. `origin` names the recipe to the user.

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
        videos = load_run_videos(recipe, reporter, origin)
        trainer = build_trainer(recipe, videos.train, run_dir, reporter)
        with interruptible():
            return _train_and_evaluate(trainer, videos, run_dir, reporter)


def _train_and_evaluate(
    trainer: Trainer, videos: RunVideos, run_dir: RunDir, reporter: Reporter
) -> TrainResult:
    try:
        _take_steps(trainer, videos, run_dir, reporter)
        return _finish(trainer, videos, run_dir, reporter)
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


def _take_steps(trainer: Trainer, videos: RunVideos, run_dir: RunDir, reporter: Reporter) -> None:
    """Train up to the last step; after each step log, save and evaluate as the schedule says."""
    schedule, monitor = trainer.schedule, Monitor(reporter.message)
    start = trainer.progress.step
    lacks_evaluation = run_dir.is_writer and start not in run_dir.evaluations()
    if schedule.evaluates(start) and on_any_process(lacks_evaluation, trainer.accelerator):
        _evaluate_between(trainer, videos, run_dir, reporter)
    if schedule.evaluates(start) and _is_out_of_patience(trainer, run_dir):
        return
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
                _evaluate_between(trainer, videos, run_dir, reporter)
                if _is_out_of_patience(trainer, run_dir):
                    reporter.message(
                        f"stopped at step {step} of {schedule.total_steps}: {trainer.recipe.run.patience} "
                        "evaluations without a better one (run.patience)"
                    )
                    return


def _finish(trainer: Trainer, videos: RunVideos, run_dir: RunDir, reporter: Reporter) -> TrainResult:
    """Evaluate and save the trained model: its averaged weights, or those that held-out videos choose."""
    averaged: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if trainer.average is not None:
        _save_model(trainer, run_dir, run_dir.path / LAST, num_averaged=0)
        averaged = trainer.average.in_place()
    with averaged:
        num_averaged = trainer.average.count if trainer.average else 0
        _save_model(trainer, run_dir, run_dir.checkpoint, num_averaged=num_averaged)
        model = unshard_model(trainer.model, trainer.accelerator)
        chosen = _choose(trainer, model, videos, run_dir, reporter)
        evaluated: list[Evaluated] = []
        metrics = _evaluate(trainer, model, videos.test, reporter, evaluated)
        if evaluated and run_dir.is_writer:
            config = trainer.recipe.evaluation
            save_predictions(run_dir.path, model, evaluated, config, trainer.accelerator.device)
    for line in trainer.feed.note_lines():
        reporter.message(line)
    failed = trainer.progress.failed
    losses = run_dir.losses() if run_dir.is_writer else []  # others might read a line half written
    found = [*videos.warnings, *loss_warnings(broadcast_object(losses))]
    if trainer.recipe.task.needs_classes:
        for tested in videos.test:
            found += chance_warnings(metrics[tested.split], tested)
    result = TrainResult(
        run_dir=str(run_dir.path),
        checkpoint=str(run_dir.checkpoint),
        epochs=trainer.recipe.run.epochs,
        **trainer.feed.throughput.rates(),
        metrics=metrics,
        failed=[failed[place] for place in sorted(failed)],
        skipped=trainer.progress.skipped,
        videos=videos.describe(),
        chosen=chosen,
        steps=trainer.progress.step,
        warnings=found,
    )
    if run_dir.is_writer:
        write_json(run_dir.result, asdict(result), indent=2)
        if evaluated:
            save_report(run_dir.path, reporter.message)
    end_training(trainer.accelerator)
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


def _evaluate_between(
    trainer: Trainer, videos: RunVideos, run_dir: RunDir, reporter: Reporter, model: VideoModel | None = None
) -> dict[str, Any]:
    """Evaluate after a step and write it to metrics.jsonl; keep the weights where they are the best so far.

    `model` holds the weights after the last step, averaged where they are; without it, it is a step between.
    """
    step, is_between = trainer.progress.step, model is None
    if not videos.during:
        return {}
    found = _evaluate(
        trainer, model or unshard_model(trainer.model, trainer.accelerator), videos.during, reporter
    )
    best = trainer.recipe.run.keep == "best" and _score(found) > _best(run_dir)[0]
    if best and is_between:
        _save_model(trainer, run_dir, run_dir.path / BEST, num_averaged=0)
    run_dir.append_metrics({"step": step, "epoch": trainer.schedule.epoch(step), "evaluation": found})
    shown = "; ".join(f"{split}: {_shown(metrics)}" for split, metrics in found.items())
    reporter.message(
        f"step {step} of {trainer.schedule.total_steps}: {shown}{', the best so far' if best else ''}"
    )
    return found


def _choose(
    trainer: Trainer, model: VideoModel, videos: RunVideos, run_dir: RunDir, reporter: Reporter
) -> dict[str, Any]:
    """Load the best weights into `model` and save them as the run's, where an evaluation beat the present ones.

    Returns what chose, and which step; with `run.keep=last`, the last, or the mean of several.
    """
    step = trainer.progress.step
    if trainer.recipe.run.keep == "last" or videos.held_out is None:
        average = trainer.average
        by = "the last step" if average is None else f"{average.count} steps, averaged"
        return {"step": step, "by": by}
    best_score, best_step = _best(run_dir, before=step)
    known = run_dir.evaluations().get(step, {}) if run_dir.is_writer and trainer.average is None else {}
    score = _score(broadcast_object(known) or _evaluate_between(trainer, videos, run_dir, reporter, model))
    if best_score > score:
        step, score = best_step, best_score
        tensors = read_tensors(run_dir.path / BEST)
        may_lack = model.module_dict().state_dict().keys() - tensors.keys()
        load_exactly(model.module_dict(), tensors, may_lack=may_lack, source=f"'{run_dir.path / BEST}'")
        if run_dir.is_writer:
            with atomic_path(run_dir.checkpoint) as temporary:
                shutil.copyfile(run_dir.path / BEST, temporary)
    measure = "top-1" if trainer.recipe.task.needs_classes else "text-to-video R@1"
    return {
        "step": step,
        "by": f"{measure} on {videos.held_out.name}/{videos.held_out.split}",
        "score": score[0],
    }


Score = tuple[float, float]  # accuracy or recall, then the loss with its sign changed: the higher, the better


def _best(run_dir: RunDir, before: float = math.inf) -> tuple[Score, int]:
    """Return the highest score of the evaluations `before` a step, and the step of the first that reached it."""
    evaluations = run_dir.evaluations() if run_dir.is_writer else {}  # others might read a line half written
    found = [(_score(evaluation), -step) for step, evaluation in evaluations.items() if step < before]
    score, step = max(broadcast_object(found), default=((-math.inf, 0.0), 0))
    return score, -step


def _is_out_of_patience(trainer: Trainer, run_dir: RunDir) -> bool:
    """Return whether too many evaluations came after the best one."""
    patience = trainer.recipe.run.patience
    if not patience:
        return False
    _, best_step = _best(run_dir)
    later = sum(step > best_step for step in run_dir.evaluations()) if run_dir.is_writer else 0
    return on_any_process(later >= patience, trainer.accelerator)


def _score(found: dict[str, Any]) -> Score:
    """Return what evaluations of one held-out set are compared by; of equal accuracies, the lower loss wins."""
    (metrics,) = found.values()
    return float(metrics["t2v"]["R@1"] if "t2v" in metrics else metrics["top1"]), -metrics.get("loss", 0.0)


def _shown(metrics: dict[str, Any]) -> str:
    """Return an evaluation in a few words."""
    if "t2v" in metrics:
        return f"text-to-video R@1 {metrics['t2v']['R@1']:.1f}%"
    return f"top-1 {metrics['top1']:.1f}%, loss {metrics['loss']:.3f}"


def _evaluate(
    trainer: Trainer,
    model: VideoModel,
    splits: list[VideoSet],
    reporter: Reporter,
    evaluated: list[Evaluated] | None = None,
) -> dict[str, Any]:
    """Evaluate the model on each split, by classes or by captions, and return the metrics by split.

    Scores by classes are added to `evaluated`.
    """
    found = {}
    for videos in splits:
        progress = reporter.progress(f"{videos.name}: evaluating {videos.split}")
        with at_once():
            if trainer.recipe.task.needs_classes:
                scored = _score_classes(trainer, model, videos, progress)
                metrics = summarize(scored.data, scored.scores).to_json()
                found[videos.split] = {**metrics, "loss": metrics["draws"][0]["loss"]}
                if evaluated is not None:
                    evaluated.append(scored)
            else:
                found[videos.split] = _measure_retrieval(trainer, model, videos, progress)
    return found


def _score_classes(trainer: Trainer, model: VideoModel, videos: VideoSet, progress: Progress) -> Evaluated:
    evaluation, accelerator = trainer.recipe.evaluation, trainer.accelerator
    return score_protocol(model, split_data(videos), evaluation, accelerator, progress=progress)


def _measure_retrieval(
    trainer: Trainer, model: VideoModel, videos: VideoSet, progress: Progress
) -> dict[str, Any]:
    """Measure as `vactk retrieve --evaluate` does with the checkpoint."""
    evaluation = trainer.recipe.evaluation
    config = replace(evaluation, data=retrieval_data(evaluation.data, views=evaluation.data.views))
    name = retrieval_protocol(videos.name, videos.split)
    return evaluate_retrieval(
        model, videos, config, trainer.accelerator, name=name, progress=progress
    ).to_json()


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
