"""Build what a training run needs: videos, model, losses and the trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vactk import config as settings
from vactk.checkpoints.checkpoint import initial_values
from vactk.checkpoints.load import is_foreign, open_model
from vactk.data.annotations.descriptions import read_descriptions
from vactk.data.class_subsets import sample_shots
from vactk.data.records import VideoSet
from vactk.data.tools.check import read_excluded
from vactk.data.video_dataset import VideoDataset
from vactk.distributed import gather_object, num_processes
from vactk.errors import VactkError
from vactk.evaluate.classifier import class_embeddings
from vactk.evaluate.scoring import image_spec
from vactk.evaluate.zero_shot import check_missing
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


def start_from(
    path: Path, model: VideoModel, *, originals: bool = True
) -> tuple[VideoModel, dict[str, Tensor]]:
    """Put a checkpoint's weights into `model`, heads where they are for the same classes or words.

    Returns the model, and, where `originals` are asked for, the original values of what CLIP and added modules
    have: CLIP's own as `model` came, those of added modules as they were before the checkpoint was trained.
    Raises VactkError when the checkpoint has modules that `model` has not.
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
            f"the model to train has no place for '{lost[0]}' of '{path}' ({len(lost)} such tensors)"
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


FEW_STEPS = 50  # fewer hardly train anything: few videos, large batches


def training_videos(recipe: Recipe, videos: VideoSet) -> VideoSet:
    """Those that are on disk and not excluded; of them as many shots as the recipe asks for."""
    check_missing(videos, recipe.run.max_failed, "run.max_failed")
    videos = videos.present(read_excluded(Path(recipe.data.exclude)) if recipe.data.exclude else set())
    if len(videos.classes) < 2:
        raise VactkError(
            f"{videos.name}/{videos.split} has one class, '{videos.classes[0]}': nothing to tell apart"
        )
    return sample_shots(videos, recipe.shots, recipe.run.seed) if recipe.shots else videos


def build_trainer(recipe: Recipe, videos: VideoSet, folder: RunDir, reporter: Reporter) -> Trainer:
    torch.manual_seed(recipe.run.seed)
    asked, recipe = recipe, fit_batch(recipe, len(videos.records), num_processes())
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
    model.video_clip.gradient_checkpointing = recipe.run.gradient_checkpointing
    choose_trained(model, task.towers)
    reporter.message(describe(model, videos))
    engine = Trainer(
        recipe,
        model,
        build_task(recipe, model, videos, reporter.message),
        VideoDataset(videos.records, recipe.data, image_spec(model), train=True, seed=recipe.run.seed),
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
    for name, part in model.module_dict().items():
        trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
        if trained:
            parts[name] = trained
    total = sum(p.numel() for p in model.module_dict().parameters())
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
    if text_is_frozen and model.video_clip.text.is_plain:
        fixed = class_embeddings(model, videos.words, templates, torch.device("cpu"))
        prompts = ClassPrompts(fixed=fixed)
    else:
        tokens = tokenize([template.format(word) for template in templates for word in videos.words])
        tokens = model.video_clip.text.trim(tokens).unflatten(0, (len(templates), -1))  # (templates, C, L)
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
        frozen = text_is_frozen and model.video_clip.text.is_plain
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
