"""Load the model and the settings that a command's options ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vactk.checkpoints.import_report import describe_import
from vactk.checkpoints.load import open_model
from vactk.config import build, merge
from vactk.distributed import Accelerator, make_accelerator
from vactk.evaluate.config import EvalConfig, eval_config
from vactk.models.video_model import ModelConfig, VideoModel, new_model


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


def prepare_model(model: VideoModel, config: EvalConfig) -> Accelerator:
    """Move `model` to the configured device, in evaluation mode, and return the accelerator that runs it."""
    accelerator = make_accelerator(config.device, config.precision)
    model.to(accelerator.device)
    model.train(False)
    return accelerator
