"""Set-up of a training run: its videos, model, losses and trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vactk import config as settings
from vactk.checkpoints.checkpoint import initial_values
from vactk.checkpoints.load import is_foreign, open_model
from vactk.data.annotations.descriptions import read_descriptions
from vactk.data.records import VideoSet
from vactk.data.video_dataset import VideoDataset
from vactk.distributed import gather_object, num_processes
from vactk.errors import VactkError
from vactk.evaluate.classifier import class_embeddings
from vactk.evaluate.scoring import image_spec
from vactk.models.backbone import Backbone
from vactk.models.video_model import Heads, VideoModel, added_tensors, new_model
from vactk.progress import Reporter
from vactk.text.descriptions import match_descriptions
from vactk.text.templates import choose_templates
from vactk.text.words import PromptMasker, build_vocabulary
from vactk.train.class_prompts import ClassPrompts, MaskedPrompts
from vactk.train.descriptions import DescriptionTexts
from vactk.train.provenance import describe_run
from vactk.train.recipe import Recipe, fit_batch
from vactk.train.run_dir import RunDir
from vactk.train.task import VideoTextTask, choose_trained
from vactk.train.trainer import Trainer

FEW_STEPS = 50  # fewer hardly train anything: few videos, large batches


def start_from(
    path: Path, model: VideoModel, *, originals: bool = True
) -> tuple[VideoModel, dict[str, Tensor]]:
    """Load a checkpoint's weights into `model`, and those of its heads where classes or words are the same.

    Returns the model and, with `originals`, the original values of its weights: CLIP's as in `model` now, those
    of added modules as they were before the checkpoint was trained. Raises VactkError when the checkpoint has
    modules that `model` lacks.
    """
    backbone = settings.to_dict(model.config.backbone)
    stated = backbone if is_foreign(path) else {"pretrained": backbone["pretrained"]}
    source = open_model(path, {"backbone": stated})
    own, theirs = model.module_dict().state_dict(), source.module_dict().state_dict()
    fits = {n: tensor for n, tensor in theirs.items() if n in own and own[n].shape == tensor.shape}
    left_out = sorted(theirs.keys() - fits.keys())
    lost = [name for name in left_out if not name.startswith(("class_head.", "word_head."))]
    if lost:
        raise VactkError(
            f"the model to train has no '{lost[0]}', which '{path}' has ({len(lost)} such tensors)"
        )
    if source.heads.classes != model.heads.classes:
        fits = {name: tensor for name, tensor in fits.items() if not name.startswith("class_head.")}
    if source.heads.vocabulary != model.heads.vocabulary:
        fits = {name: tensor for name, tensor in fits.items() if not name.startswith("word_head.decoder.")}
    initial = source.info.get("initial")
    kept: dict[str, Tensor] = {}
    if originals:
        values, _ = initial_values(source.config, initial, added_tensors(theirs))
        kept = {name: tensor.clone() for name, tensor in {**own, **fits, **values}.items() if name in own}
        kept |= {name: tensor.clone() for name, tensor in own.items() if name.startswith("clip.")}
    model.module_dict().load_state_dict(fits, strict=False)
    return dataclasses.replace(model, info={"initial": initial}), kept


def build_trainer(recipe: Recipe, videos: VideoSet, run_dir: RunDir, reporter: Reporter) -> Trainer:
    """Build the trainer of a recipe, from the newest state in `run_dir` where there is one."""
    torch.manual_seed(recipe.run.seed)
    wanted, recipe = recipe, fit_batch(recipe, len(videos.records), num_processes())
    if recipe.run.batch_size < wanted.run.batch_size:
        reporter.message(
            f"batch size {recipe.run.batch_size} instead of {wanted.run.batch_size}: there are only "
            f"{len(videos.records)} training videos"
        )
    model, originals = build_model(recipe, videos)
    reporter.message(describe(model, videos))
    trainer = Trainer(
        recipe,
        model,
        build_task(recipe, model, videos, reporter.message),
        VideoDataset(videos.records, recipe.data, image_spec(model), train=True, seed=recipe.run.seed),
        originals=originals,
        logs=run_dir.path / "logs",
        message=reporter.message,
    )
    total_steps = trainer.schedule.total_steps
    if total_steps < FEW_STEPS:
        reporter.message(f"only {total_steps} steps in {recipe.run.epochs:g} epochs; raise --epochs for more")
    if trainer.feed.labels is not None:
        reporter.message("each class is drawn equally often (run.balance)")
    state = run_dir.load_state(reporter.message)
    if state is not None:
        trainer.state.load_state_dict(state)
        reporter.message(f"resuming at step {trainer.progress.step} of {total_steps}")
    _begin_segment(trainer, run_dir)
    return trainer


def build_model(recipe: Recipe, videos: VideoSet) -> tuple[VideoModel, dict[str, Tensor]]:
    """Build the recipe's model with heads for `videos`, and set what is trained.

    Also returns the original weights, as `start_from` does, where the recipe starts from a checkpoint.
    """
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
    model.video_clip.gradient_checkpointing = recipe.run.gradient_checkpointing
    choose_trained(model, task.towers)
    return model, originals


def _begin_segment(trainer: Trainer, run_dir: RunDir) -> None:
    """Begin a segment of the run at the trainer's step: in its logs, and in its provenance."""
    step = trainer.progress.step
    if len(set(gather_object([step]))) > 1:
        raise VactkError(
            f"processes found different states in '{run_dir.path}': --output must be on a disk that all machines "
            "share"
        )
    run_dir.drop_lines_after(step)
    run_dir.add_provenance(describe_run(trainer.recipe, trainer.accelerator, from_step=step))


def describe(model: VideoModel, videos: VideoSet) -> str:
    """Return a line on what is trained: parameters of each module, videos, and classes or captions."""
    modules = model.module_dict()
    counts = {
        name: sum(p.numel() for p in module.parameters() if p.requires_grad)
        for name, module in modules.items()
    }
    total = sum(p.numel() for p in modules.parameters())
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    num_captions = sum(len(record.captions) for record in videos.records)
    targets = f"of {len(videos.classes)} classes" if videos.classes else f"with {num_captions:,} captions"
    return (
        f"{model.config.backbone.name}: {sum(counts.values()):,} of {total:,} parameters are trained ({listed}), "
        f"on {len(videos.records):,} videos {targets}"
    )


def build_task(
    recipe: Recipe, model: VideoModel, videos: VideoSet, message: Callable[[str], None]
) -> VideoTextTask:
    """Build the model's losses on `videos`; texts that stay frozen are embedded beforehand.

    `message` shows what is wrong with descriptions and captions.
    """
    frozen = "text" not in recipe.task.towers and model.video_clip.text.is_plain
    descriptions = captions = None
    if recipe.descriptions and recipe.task.descriptions:
        descriptions = describing_texts(
            recipe.descriptions, videos, model.backbone, frozen=frozen, message=message
        )
    if recipe.task.captions:
        own = [record.captions for record in videos.records]
        num_tokens = recipe.task.caption_tokens
        captions = _texts("captions", own, model.backbone, num_tokens, frozen=frozen, message=message)
    prompts = _class_prompts(recipe, model, videos) if recipe.task.needs_classes else None
    masked = _masked_prompts(recipe, model, videos)
    return VideoTextTask(model, recipe.task, prompts, masked, descriptions, captions)


def _class_prompts(recipe: Recipe, model: VideoModel, videos: VideoSet) -> ClassPrompts:
    templates, text = choose_templates(recipe.templates), model.video_clip.text
    is_frozen = "text" not in recipe.task.towers
    if is_frozen and text.is_plain:
        return ClassPrompts(fixed=class_embeddings(model, videos.words, templates, torch.device("cpu")))
    prompts = [template.format(word) for template in templates for word in videos.words]
    tokens = text.trim(model.backbone.tokenize(prompts)).unflatten(
        0, (len(templates), -1)
    )  # (templates, C, L)
    return ClassPrompts(tokens=tokens, frozen=is_frozen)


def _masked_prompts(recipe: Recipe, model: VideoModel, videos: VideoSet) -> MaskedPrompts | None:
    if model.word_head is None:
        return None
    tokenize = model.backbone.tokenize
    masker = PromptMasker(
        model.heads.vocabulary,
        tokenize.encode,
        start=tokenize.sot_token_id,
        end=tokenize.eot_token_id,
        context_length=tokenize.context_length,
        rate=recipe.task.mask_rate,
    )
    return MaskedPrompts(masker, videos.words, choose_templates(recipe.templates))


def describing_texts(
    file: str, videos: VideoSet, backbone: Backbone, *, frozen: bool, message: Callable[[str], None]
) -> DescriptionTexts:
    """Read the descriptions of `videos` in `file`. `message` shows how many are missing, unused or truncated."""
    matched = match_descriptions(read_descriptions(Path(file)), [record.video for record in videos.records])
    if matched.missing:
        message(
            f"{len(matched.missing)} of {len(videos.records)} videos have no description in '{file}', such as "
            f"'{matched.missing[0]}': this loss leaves them out"
        )
    if matched.extra:
        message(f"{len(matched.extra)} descriptions are of no training video, such as '{matched.extra[0]}'")
    return _texts("descriptions", matched.texts, backbone, frozen=frozen, message=message)


def _texts(
    kind: str,
    by_video: Sequence[tuple[str, ...]],
    backbone: Backbone,
    num_tokens: int = 0,
    *,
    frozen: bool,
    message: Callable[[str], None],
) -> DescriptionTexts:
    """Tokenize each video's texts. `message` shows how many were truncated, by default to the tower's context."""
    texts = [text for own in by_video for text in own]
    short = backbone.shorten(texts, num_tokens)
    changed = sum(before != after for before, after in zip(texts, short, strict=True))
    if changed:
        limit = f"{num_tokens}" if num_tokens else f"the text tower's {backbone.tokenize.context_length}"
        message(f"{changed} of {len(texts)} {kind} were truncated to {limit} tokens")
    counts = torch.tensor([len(own) for own in by_video])
    return DescriptionTexts(backbone.tokenize(short), counts, frozen=frozen)
