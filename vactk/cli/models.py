"""The model that a command's options ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vactk.config import build, merge, to_dict, with_new_names

if TYPE_CHECKING:
    from vactk.models.video_model import VideoModel
    from vactk.train.recipe import Recipe


def load_for_evaluation(
    checkpoint: Path | None,
    overrides: dict[str, Any],
    defaults: dict[str, Any],
    message: Callable[[str], None],
) -> tuple[VideoModel, Recipe]:
    """The model, and the settings to test it with: its own recipe's or the defaults, then the options.

    `message` hears what of another project's file was taken over.
    """
    from vactk.checkpoints.import_report import describe_import
    from vactk.checkpoints.load import open_model
    from vactk.models.video_model import ModelConfig, new_model
    from vactk.train.recipe import Recipe

    if checkpoint is not None:
        model = open_model(checkpoint, overrides.get("model"))
        if "import" in model.info:
            message(f"{checkpoint}: {describe_import(model.info['import'])}")
        return model, checkpoint_recipe(model, overrides)
    frozen = merge(
        defaults, {"model": {"temporal": "none"}}
    )  # a recipe's modules are untrained: leave them out
    recipe = build(Recipe, merge(frozen, overrides))
    model = new_model(ModelConfig(backbone=recipe.model.backbone))
    return model, recipe


def checkpoint_recipe(model: VideoModel, overrides: dict[str, Any]) -> Recipe:
    """The settings to test a checkpoint's model with: its own recipe's, then the options."""
    from vactk.train.recipe import Recipe

    own = merge(with_new_names(model.info.get("recipe", {})), {"model": to_dict(model.config)})
    return build(Recipe, merge(own, {**overrides, "model": {}}))
