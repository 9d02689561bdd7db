"""Load plain CLIPs as video models, from files and folders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vactk import config as settings
from vactk.checkpoints.import_report import fill
from vactk.errors import VactkError
from vactk.models.backbone import BackboneConfig, plain_names
from vactk.models.temporal.adapters import NoTemporal
from vactk.models.temporal.frame_attention import CrossFrameAttentionConfig
from vactk.models.temporal.registry import TemporalConfig
from vactk.models.video_model import ModelConfig, VideoModel, new_model
from vactk.weights.hf_clip import VISION_DEFAULTS, left_out_knowingly, rename_huggingface
from vactk.weights.hub_folder import WeightsFolder, open_weights_folder


def is_plain(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are those of a whole CLIP with a ViT, by OpenAI's or open_clip's names."""
    names = {name.removeprefix("model.") for name in tensors}
    texts = {"token_embedding.weight", "text.token_embedding.weight"}
    return {"visual.conv1.weight", "visual.class_embedding"} <= names and bool(texts & names)


def load_plain(
    path: Path,
    tensors: Mapping[str, Tensor],
    backbone: BackboneConfig | None,
    temporal: TemporalConfig | None,
) -> VideoModel:
    """A plain CLIP's file as a model: of OpenAI's layout, or, with `backbone`, of that architecture.

    Raises VactkError as `new_model` and `fill` do.
    """
    config = ModelConfig(
        backbone=backbone or BackboneConfig(name=str(path)), temporal=temporal or NoTemporal()
    )
    model = new_model(config, weights=False)
    own = model.video_clip.backbone.state_dict()

    def rename(some: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"clip.{ours}": some[theirs] for ours, theirs in plain_names(some, own).items()}

    added = {name for name in model.module_dict().state_dict() if not name.startswith("clip.")}
    report = fill(model, path, "plain CLIP", tensors, rename, may_lack=added)
    return dataclasses.replace(model, info={"parents": [{"path": str(path), "kind": "plain CLIP"}], **report})


def load_folder(
    path: Path, backbone: BackboneConfig | None = None, temporal: TemporalConfig | None = None
) -> VideoModel:
    """A folder of open_clip's or Hugging Face's as a model.

    Folders that `vactk export` wrote say which temporal module belongs to their weights. Raises VactkError as
    `new_model` and `fill` do, and for folders of other models.
    """
    folder = open_weights_folder(path)
    if folder.kind not in TITLES:
        raise VactkError(
            f"'{path}' is a folder of a model of type '{folder.kind}'; vactk reads {', '.join(TITLES)}"
        )
    ours = folder.config.get("vactk", {})
    config = settings.build(
        ModelConfig, {key: ours[key] for key in ("temporal", "similarity") if key in ours}
    )
    config = dataclasses.replace(
        config,
        backbone=backbone or BackboneConfig(name=str(path)),
        temporal=temporal or _published(folder) or config.temporal,
    )
    model = new_model(config, weights=False)
    tensors = folder.read()
    if folder.kind == "open_clip":
        return load_plain(path, tensors, config.backbone, config.temporal)
    added = {name for name in model.module_dict().state_dict() if not name.startswith("clip.")}
    may_lack = set() if folder.kind == "xclip" and temporal is None else added
    report = fill(
        model,
        path,
        TITLES[folder.kind],
        tensors,
        rename_huggingface,
        may_lack=may_lack,
        known=left_out_knowingly,
    )
    kept = {"recipe": ours["recipe"]} if "recipe" in ours else {}
    parents = [{"path": str(path), "kind": TITLES[folder.kind]}]
    return dataclasses.replace(model, info={**kept, "parents": parents, **report})


def _published(folder: WeightsFolder) -> TemporalConfig | None:
    """The temporal module that a kind of folder always has."""
    if folder.kind != "xclip":
        return None
    vision = {**VISION_DEFAULTS, **folder.config.get("vision_config", {})}
    if vision["layer_norm_eps"] != 1e-5:
        raise VactkError(f"'{folder.path}' has norms with eps {vision['layer_norm_eps']}; vactk's have 1e-05")
    return CrossFrameAttentionConfig(heads=vision["num_attention_heads"])


TITLES = {
    "open_clip": "open_clip",
    "clip": "Hugging Face CLIP",
    "xclip": "Hugging Face X-CLIP",
}
