"""A training run from its recipe to its result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from vactk import config as settings
from vactk.checkpoints.checkpoint import save_model
from vactk.data.datasets import find_dataset
from vactk.data.records import VideoSet
from vactk.distributed import process_state
from vactk.errors import RestartError, VactkError
from vactk.evaluate.protocol_splits import split_data
from vactk.evaluate.results import EvalResult
from vactk.evaluate.zero_shot import evaluate_protocol
from vactk.files.atomic import write_text
from vactk.interrupt import Stopped, at_once, interruptible
from vactk.progress import Reporter
from vactk.train.recipe import Recipe
from vactk.train.run_dir import RunDir
from vactk.train.setup import build_trainer, training_videos
from vactk.train.stability import Monitor, MoreMicroBatchesError, Skipped, deterministic
from vactk.train.trainer import Trainer

LAST = "last.safetensors"  # the weights of the last step, where model.safetensors is a mean


@dataclass(frozen=True)
class TrainResult:
    """What a finished run has to show; the keys that scripts rely on."""

    run_dir: str
    checkpoint: str
    epochs: float
    videos_per_s: float
    data_wait: float  # share of the training time spent waiting for videos
    metrics: dict[str, Any]  # split -> {"top1", "top5", "class_head": {...}, "ensemble": {...}}, percentages
    failed: list[str]  # training videos that could not be read
    skipped: int = 0  # steps that were left out because their loss or gradient was not finite


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed and the state saved. The message says how to go on."""


def train(recipe: Recipe, output: Path, *, resume: bool, reporter: Reporter) -> TrainResult:
    """Train as `recipe` says and measure the result, in the run folder `output`.

    With `resume`, an unfinished run in `output` goes on exactly where its last saved state was, and a
    finished one returns its result. Raises VactkError, or Interrupted once the state is saved after Ctrl-C.
    """
    with deterministic(recipe.run.deterministic):
        return _run(recipe, output, resume, reporter)


def _run(recipe: Recipe, output: Path, resume: bool, reporter: Reporter) -> TrainResult:
    state = process_state(recipe.run.device)
    (chosen,) = broadcast_object_list([str(output)])  # a name with the time in it differs between processes
    folder = RunDir(Path(chosen), is_writer=state.is_main_process)
    folder.open(recipe, resume=resume)
    finished = folder.finished()
    if finished is not None:
        reporter.message(f"the run in '{output}' is finished")
        return TrainResult(**finished)
    dataset = find_dataset(recipe.dataset)
    root = Path(recipe.data_root) if recipe.data_root else None
    splits = {
        split: dataset.load(split, root=root, progress=reporter.progress(f"{recipe.dataset}: videos"))
        for split in (dataset.train_split, *dataset.eval_splits)
    }
    for videos in splits.values():
        for line in videos.report.lines() if videos.report else ():
            reporter.message(f"{videos.name}, {videos.split}: {line}")
    engine = build_trainer(recipe, training_videos(recipe, splits[dataset.train_split]), folder, reporter)
    tests = {split: splits[split] for split in dataset.eval_splits}
    with interruptible():
        try:
            return _train_and_measure(engine, tests, folder, reporter)
        except Stopped:
            step = engine.progress.step
            if folder.saved_step != step:
                folder.save_state(step, engine.state())
                engine.on_any(False)  # none ends before it is saved: a launcher would end the others
            raise Interrupted(
                f"stopped after step {step}; go on with the same command and --resume"
            ) from None


def _train_and_measure(
    engine: Trainer, tests: dict[str, VideoSet], folder: RunDir, reporter: Reporter
) -> TrainResult:
    _train(engine, tests, folder, reporter)
    if engine.average is None:
        return _finish(
            engine, folder, [_evaluate(engine, videos, reporter) for videos in tests.values()], reporter
        )
    _save(engine, folder, folder.path / LAST, {"averaged": 0})
    with engine.average.in_place():
        return _finish(
            engine, folder, [_evaluate(engine, videos, reporter) for videos in tests.values()], reporter
        )


def _train(engine: Trainer, splits: dict[str, VideoSet], folder: RunDir, reporter: Reporter) -> None:
    run = engine.recipe.run
    save_steps = max(1, round(run.save_every * engine.steps_per_epoch))
    eval_steps = max(1, round(run.eval_every * engine.steps_per_epoch)) if run.eval_every else 0

    monitor = Monitor(reporter.message)

    def is_measured(step: int) -> bool:
        return eval_steps > 0 and 0 < step < engine.total_steps and step % eval_steps == 0

    def measure(step: int) -> None:
        found = [_evaluate(engine, videos, reporter) for videos in splits.values()]
        line = {"step": step, "epoch": step / engine.steps_per_epoch, "evaluation": _by_split(found)}
        folder.append_metrics(line)

    def on_skip(skipped: Skipped) -> None:
        _report_skipped(engine, skipped, folder, reporter)

    def on_step(step: int, values: dict[str, float]) -> None:
        epoch = step / engine.steps_per_epoch
        last = step == engine.total_steps
        reporter.step(step, engine.total_steps, epoch, values)
        monitor.see(step, values)
        if step % run.log_every == 0 or last:
            engine.track(step, values)
            folder.append_metrics({"step": step, "epoch": epoch, **values})
        if step % save_steps == 0 or last or is_measured(step):  # measuring may be interrupted at any moment
            folder.save_state(step, engine.state())
        if is_measured(step):
            measure(step)

    start = engine.progress.step
    if is_measured(start) and engine.on_any(folder.is_writer and not folder.has_evaluation(start)):
        measure(start)
    try:
        engine.run(engine.total_steps, on_step, on_skip)
    except MoreMicroBatchesError as error:
        resumed = (f"run.accumulate={error.pieces}", "--resume", "--output", str(folder.path))
        raise RestartError(str(error), resumed) from error


def _report_skipped(engine: Trainer, skipped: Skipped, folder: RunDir, reporter: Reporter) -> None:
    """Keep which videos a step was left out for. Raises VactkError when that happened too often."""
    videos = [str(engine.dataset.records[place].video) for place in skipped.places]
    numbers = {"loss": str(skipped.loss), "grad_norm": str(skipped.grad_norm)}  # not finite: no JSON numbers
    folder.append_skipped({"step": skipped.step, **numbers, "videos": videos})
    allowed = engine.recipe.run.max_skipped
    problem = skipped.problem(allowed)
    what = f"step {skipped.step} is left out: its loss is {skipped.loss:.4g}, its gradient {skipped.grad_norm:.4g}"
    if problem is not None:
        raise VactkError(
            f"{what}; {problem}: lower optim.lr, use fp32, or look at the videos in '{folder.skipped}'"
        )
    reporter.message(f"{what} ({skipped.count} of {allowed} allowed); its videos are in '{folder.skipped}'")


def _evaluate(engine: Trainer, videos: VideoSet, reporter: Reporter) -> EvalResult:
    progress = reporter.progress(f"{videos.name}: evaluating {videos.split}")
    model = engine.whole_model()
    with at_once():
        return evaluate_protocol(
            model, split_data(videos), engine.recipe.evaluation, engine.accelerator, progress=progress
        )


def _by_split(evaluations: list[EvalResult]) -> dict[str, Any]:
    return {result.data.videos.split: result.to_json() for result in evaluations}


def _finish(
    engine: Trainer, folder: RunDir, evaluations: list[EvalResult], reporter: Reporter
) -> TrainResult:
    recipe, rates = engine.recipe, engine.clock.rates()
    for note in engine.notes():
        reporter.message(note)
    result = TrainResult(
        run_dir=str(folder.path),
        checkpoint=str(folder.checkpoint),
        epochs=recipe.run.epochs,
        videos_per_s=rates["videos_per_s"],
        data_wait=rates["data_wait"],
        metrics=_by_split(evaluations),
        failed=[engine.progress.failed[index] for index in sorted(engine.progress.failed)],
        skipped=engine.progress.skipped,
    )
    _save(engine, folder, folder.checkpoint, {"averaged": engine.average.count if engine.average else 0})
    if folder.is_writer:
        write_text(folder.result, json.dumps(asdict(result), indent=2) + "\n")
    engine.accelerator.end_training()
    return result


def _save(engine: Trainer, folder: RunDir, path: Path, more: dict[str, Any]) -> None:
    recipe, model = engine.recipe, engine.whole_model()  # which all processes take part in
    if not folder.is_writer:
        return
    info = {
        "recipe": settings.to_dict(recipe),
        "dataset": recipe.dataset,
        "num_frames": recipe.data.num_frames,
        "templates": recipe.templates,
        "step": engine.progress.step,
        "parents": [recipe.start] if recipe.start else [],
        **more,
    }
    save_model(path, model, towers=recipe.task.towers, info=info)
