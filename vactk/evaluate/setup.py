"""Load the model and the settings that a command's options ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from vactk.checkpoints.import_report import describe_import
from vactk.checkpoints.load import open_model
from vactk.config import build, merge
from vactk.distributed import Accelerator, make_accelerator
from vactk.evaluate.config import EvalConfig, eval_config
from vactk.models.backbone import TOY
from vactk.models.toy import knows_words
from vactk.models.video_model import ModelConfig, VideoModel, new_model

MAX_STRANGE = 3  # texts that a message names


def load_for_evaluation(
    checkpoint: Path | None,
    overrides: Mapping[str, Any],
    defaults: Mapping[str, Any],
    message: Callable[[str], None],
) -> tuple[VideoModel, EvalConfig]:
    """Load a checkpoint, or a plain CLIP, and the settings to evaluate it with.

    `overrides` and `defaults` have a recipe's keys. A checkpoint brings its own settings; a plain CLIP has the
    `defaults`, such as a dataset's recipe. `message` receives a report on tensors imported from another project.
    """
    if checkpoint is not None:
        model = open_model(checkpoint, overrides.get("model"))
        if "import" in model.info:
            message(f"{checkpoint}: {describe_import(model.info['import'])}")
        return model, checkpoint_config(model, overrides)
    settings = merge(defaults, {"model": {"temporal": "none"}})  # leave out a recipe's untrained modules
    settings = merge(settings, overrides)
    backbone = build(ModelConfig, settings["model"]).backbone
    return new_model(ModelConfig(backbone=backbone)), eval_config(settings)


def checkpoint_config(model: VideoModel, overrides: Mapping[str, Any]) -> EvalConfig:
    """Return the settings stored with a checkpoint's model, with `overrides` (a recipe's keys) laid over them."""
    return eval_config(merge(model.info.get("recipe", {}), overrides))


def strange_to_toy(model: VideoModel, texts: Iterable[str]) -> str:
    """Return what to tell a user whose texts mean nothing to the toy CLIP; empty unless it is the model.

    After training on anything but drawn shapes it may know them.
    """
    dataset = model.info.get("recipe", {}).get("dataset", "shapes")
    if model.config.backbone.name != TOY or not str(dataset).startswith("shapes"):
        return ""
    encode = model.backbone.tokenize.encode
    strange = [f"'{text}'" for text in texts if not knows_words(text, encode)]
    more = f" and {len(strange) - MAX_STRANGE} more" if len(strange) > MAX_STRANGE else ""
    if not strange:
        return ""
    return (
        f"the toy CLIP knows drawn shapes only, not {', '.join(strange[:MAX_STRANGE])}{more}: what it says of them "
        "means nothing; take a real CLIP, such as --backbone ViT-B-16"
    )


def prepare_model(model: VideoModel, config: EvalConfig) -> Accelerator:
    """Move `model` to the configured device, in evaluation mode, and return the accelerator that runs it."""
    accelerator = make_accelerator(config.device, config.precision)
    model.to(accelerator.device)
    model.train(False)
    return accelerator
