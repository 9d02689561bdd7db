"""A training run from its recipe to its result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from vactk import config as settings
from vactk.data.annotations.descriptions import read_descriptions
from vactk.data.check import read_excluded
from vactk.data.datasets import find_dataset
from vactk.data.few_shot import draw_shots
from vactk.data.loading import VideoDataset
from vactk.data.records import VideoSet
from vactk.errors import RestartError, VactkError
from vactk.evaluate.embed import class_embeddings, picture_of, process_state
from vactk.evaluate.measure import check_missing
from vactk.evaluate.zeroshot import Evaluation, evaluate, score_classes
from vactk.interrupt import Stopped, at_once, interruptible
from vactk.models.backbone import Backbone
from vactk.models.checkpoint import Heads, VideoModel, new_model, save_model
from vactk.text.descriptions import match_descriptions
from vactk.text.templates import choose_templates
from vactk.text.words import PromptMasker, build_vocabulary
from vactk.train.descriptions import DescriptionTexts
from vactk.train.engine import Engine
from vactk.train.health import Monitor, MorePiecesError, Skipped, deterministic
from vactk.train.prompts import ClassPrompts, MaskedPrompts
from vactk.train.recipe import Recipe, fit_batch
from vactk.train.run_folder import RunFolder
from vactk.train.run_record import describe_run
from vactk.train.start import start_from
from vactk.train.task import VideoTextTask, choose_trained
from vactk.weights.atomic import write_text

Progress = Callable[[int, int], None]  # done, total
LAST = "last.safetensors"  # the weights of the last step, where model.safetensors is a mean
FEW_STEPS = 50  # fewer hardly train anything: few videos, large batches


class Reporter(Protocol):
    """Hears of a run as it goes on: a progress display, or nobody."""

    def message(self, text: str) -> None:
        """Something worth a line."""

    def progress(self, what: str) -> Progress:
        """Work other than training steps begins; the result is told how far it is."""

    def step(self, step: int, total_steps: int, epoch: float, values: dict[str, float]) -> None:
        """A step was done; `values` as in metrics.jsonl."""


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
    folder = RunFolder(Path(chosen), is_writer=state.is_main_process)
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
    engine = _engine(recipe, _training_videos(recipe, splits[dataset.train_split]), folder, reporter)
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
    engine: Engine, tests: dict[str, VideoSet], folder: RunFolder, reporter: Reporter
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


def _training_videos(recipe: Recipe, videos: VideoSet) -> VideoSet:
    """Those that are on disk and not excluded; of them as many shots as the recipe asks for."""
    check_missing(videos, recipe.run.max_failed, "run.max_failed")
    videos = videos.present(read_excluded(Path(recipe.data.exclude)) if recipe.data.exclude else set())
    if len(videos.classes) < 2:
        raise VactkError(
            f"{videos.name}/{videos.split} has one class, '{videos.classes[0]}': nothing to tell apart"
        )
    return draw_shots(videos, recipe.shots, recipe.run.seed) if recipe.shots else videos


def _engine(recipe: Recipe, videos: VideoSet, folder: RunFolder, reporter: Reporter) -> Engine:
    torch.manual_seed(recipe.run.seed)
    asked, recipe = recipe, fit_batch(recipe, len(videos.records), PartialState().num_processes)
    if recipe.run.batch_size < asked.run.batch_size:
        reporter.message(
            f"batches of {recipe.run.batch_size} videos, not {asked.run.batch_size}: there are "
            f"{len(videos.records)} to train on"
        )
    task = recipe.task
    prompts = [t.format(word) for t in choose_templates(recipe.templates) for word in videos.words]
    heads = Heads(
        classes=videos.classes,
        class_head=task.visual > 0,
        dropout=task.head_dropout,
        vocabulary=build_vocabulary(prompts) if task.masked_words > 0 else (),
    )
    model = new_model(recipe.model, heads)
    originals: dict[str, Tensor] = {}
    if recipe.start:
        model, originals = start_from(Path(recipe.start), model, originals=recipe.interpolated.weight > 0)
    model.clip.gradient_checkpointing = recipe.run.gradient_checkpointing
    choose_trained(model, task.towers)
    reporter.message(describe(model, videos))
    engine = Engine(
        recipe,
        model,
        build_task(recipe, model, videos, reporter.message),
        VideoDataset(videos.records, recipe.data, picture_of(model), train=True, seed=recipe.run.seed),
        originals=originals,
        logs=folder.path / "logs",
        message=reporter.message,
    )
    if engine.total_steps < FEW_STEPS:
        reporter.message(
            f"only {engine.total_steps} steps in {recipe.run.epochs:g} epochs: --epochs takes more"
        )
    state = folder.load_state(reporter.message)
    if state is not None:
        engine.load_state(state)
        reporter.message(f"going on from step {engine.progress.step} of {engine.total_steps}")
    if len(set(gather_object([engine.progress.step]))) > 1:
        raise VactkError(
            f"not all processes see the same states in '{folder.path}': --output must be on a disk that all "
            "machines share"
        )
    folder.cut_lines(engine.progress.step)
    folder.add_record(describe_run(recipe, engine.accelerator, from_step=engine.progress.step))
    return engine


def describe(model: VideoModel, videos: VideoSet) -> str:
    """What will be trained, on what: a line with the number of trained parameters of every part."""
    parts = {}
    for name, part in model.modules().items():
        trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
        if trained:
            parts[name] = trained
    total = sum(p.numel() for p in model.modules().parameters())
    listed = ", ".join(f"{name} {count:,}" for name, count in parts.items())
    return (
        f"{model.config.backbone.name}: {sum(parts.values()):,} of {total:,} parameters are trained ({listed}), "
        f"on {len(videos.records):,} videos of {len(videos.classes)} classes"
    )


def build_task(
    recipe: Recipe, model: VideoModel, videos: VideoSet, message: Callable[[str], None]
) -> VideoTextTask:
    """The model's losses on `videos`, with their texts computed as far as they are frozen.

    `message` hears of what is amiss with descriptions.
    """
    templates = choose_templates(recipe.templates)
    tokenize = model.backbone.tokenize
    text_is_frozen = "text" not in recipe.task.towers
    if text_is_frozen and model.clip.text.is_plain:
        fixed = class_embeddings(model, videos.words, templates, torch.device("cpu"))
        prompts = ClassPrompts(fixed=fixed)
    else:
        tokens = tokenize([template.format(word) for template in templates for word in videos.words])
        tokens = model.clip.text.trim(tokens).unflatten(0, (len(templates), -1))  # (templates, C, L)
        prompts = ClassPrompts(tokens=tokens, frozen=text_is_frozen)
    masked = None
    if model.word_head is not None:
        masker = PromptMasker(
            model.heads.vocabulary,
            tokenize.encode,
            start=tokenize.sot_token_id,
            end=tokenize.eot_token_id,
            context_length=tokenize.context_length,
            rate=recipe.task.mask_rate,
        )
        masked = MaskedPrompts(masker, videos.words, templates)
    descriptions = None
    if recipe.descriptions and recipe.task.descriptions:
        frozen = text_is_frozen and model.clip.text.is_plain
        descriptions = describing_texts(
            recipe.descriptions, videos, model.backbone, frozen=frozen, message=message
        )
    return VideoTextTask(model, recipe.task, prompts, masked, descriptions)


def describing_texts(
    file: str, videos: VideoSet, backbone: Backbone, *, frozen: bool, message: Callable[[str], None]
) -> DescriptionTexts:
    """The descriptions in `file` of `videos`. `message` hears of missing, extra and shortened ones."""
    matched = match_descriptions(read_descriptions(Path(file)), [record.video for record in videos.records])
    if matched.missing:
        message(
            f"{len(matched.missing)} of {len(videos.records)} videos have no description in '{file}', such as "
            f"'{matched.missing[0]}': they are trained on without one"
        )
    if matched.extra:
        message(f"{len(matched.extra)} described videos are not trained on, such as '{matched.extra[0]}'")
    texts = [text for own in matched.texts for text in own]
    short = backbone.shorten(texts)
    changed = sum(before != after for before, after in zip(texts, short, strict=True))
    if changed:
        message(
            f"{changed} of {len(texts)} descriptions were cut to the {backbone.tokenize.context_length} tokens "
            "of the text tower"
        )
    counts = torch.tensor([len(own) for own in matched.texts])
    return DescriptionTexts(backbone.tokenize(short), counts, frozen=frozen)


def _train(engine: Engine, splits: dict[str, VideoSet], folder: RunFolder, reporter: Reporter) -> None:
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
    except MorePiecesError as error:
        resumed = (f"run.accumulate={error.pieces}", "--resume", "--output", str(folder.path))
        raise RestartError(str(error), resumed) from error


def _report_skipped(engine: Engine, skipped: Skipped, folder: RunFolder, reporter: Reporter) -> None:
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


def _evaluate(engine: Engine, videos: VideoSet, reporter: Reporter) -> Evaluation:
    recipe = engine.recipe
    model = engine.whole_model()
    with at_once():
        scores = score_classes(
            model,
            videos,
            recipe.data,
            engine.accelerator,
            templates=choose_templates(recipe.templates),
            batch_size=recipe.run.eval_batch_size,
            progress=reporter.progress(f"{videos.name}: evaluating {videos.split}"),
        )
    return evaluate(videos, scores)


def _by_split(evaluations: list[Evaluation]) -> dict[str, Any]:
    return {evaluation.split: evaluation.to_json() for evaluation in evaluations}


def _finish(
    engine: Engine, folder: RunFolder, evaluations: list[Evaluation], reporter: Reporter
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


def _save(engine: Engine, folder: RunFolder, path: Path, more: dict[str, Any]) -> None:
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
