"""Plain CLIPs as video models, from files and folders; and what an import found of a file's tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

from torch import Tensor

from vactk import config as settings
from vactk.errors import VactkError
from vactk.models.backbone import BackboneConfig, plain_names
from vactk.models.checkpoint import ModelConfig, VideoModel, new_model
from vactk.models.frame_attention import CrossFrameAttentionConfig
from vactk.models.temporal import NoTemporal
from vactk.models.temporal_table import TemporalConfig
from vactk.weights.files import load_exactly
from vactk.weights.folders import WeightsFolder, open_weights_folder
from vactk.weights.huggingface import VISION_DEFAULTS, left_out_knowingly, rename_huggingface

Rename = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
SHOWN = 4  # names of an import's report


def fill(
    model: VideoModel,
    path: Path,
    title: str,
    tensors: Mapping[str, Tensor],
    rename: Rename,
    *,
    may_lack: Set[str] = frozenset(),
    known: Callable[[str], bool] = lambda name: True,
) -> dict[str, Any]:
    """Load a file's tensors, by our names, into `model`; returns `{"import": ...}`, what was found, for its info.

    `may_lack` are our names that may keep their values; `known` tells of a tensor that `rename` leaves out
    whether that is right. Raises VactkError for one that is not, for what does not fit the model, and for
    values that are not finite.
    """
    renamed = rename(tensors)
    left_over = [name for name in tensors if not rename({name: tensors[name]})]
    strangers = [name for name in left_over if not known(name)]
    if strangers:
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        raise VactkError(f"'{path}' ({title}) holds what vactk has no place for: {strangers[0]}{more}")
    load_exactly(model.modules(), renamed, may_lack=may_lack, source=f"'{path}'")
    missing = sorted(may_lack - renamed.keys())
    return {
        "import": {
            "format": title,
            "mapped": len(tensors) - len(left_over),
            "missing": missing,
            "left_over": left_over,
        }
    }


def describe_import(report: Mapping[str, Any]) -> str:
    """A line on what an import found, for the user."""
    parts = [f"{report['format']}: {report['mapped']} tensors taken over"]
    if report["missing"]:
        parts.append(
            f"{len(report['missing'])} missing, as the backbone has them ({_some(report['missing'])})"
        )
    if report["left_over"]:
        parts.append(f"{len(report['left_over'])} left over ({_some(report['left_over'])})")
    return "; ".join(parts)


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
    apart = any(name.startswith("clip.text.") for name in model.modules().state_dict())

    def rename(some: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"clip.{ours}": some[theirs] for ours, theirs in plain_names(some, text_apart=apart).items()}

    added = {name for name in model.modules().state_dict() if not name.startswith("clip.")}
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
    added = {name for name in model.modules().state_dict() if not name.startswith("clip.")}
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
    info = {"parents": [{"path": str(path), "kind": TITLES[folder.kind]}], **report}
    return dataclasses.replace(
        model, info={**({"recipe": ours["recipe"]} if "recipe" in ours else {}), **info}
    )


def _published(folder: WeightsFolder) -> TemporalConfig | None:
    """The temporal module that a kind of folder always has."""
    if folder.kind != "xclip":
        return None
    vision = {**VISION_DEFAULTS, **folder.config.get("vision_config", {})}
    if vision["layer_norm_eps"] != 1e-5:
        raise VactkError(f"'{folder.path}' has norms with eps {vision['layer_norm_eps']}; vactk's have 1e-05")
    return CrossFrameAttentionConfig(heads=vision["num_attention_heads"])


def _some(names: list[str]) -> str:
    """A few names, or, of many, the parts that they are of."""
    shown = names if len(names) <= SHOWN else sorted({f"{name.split('.')[0]}.*" for name in names})
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more


TITLES = {
    "open_clip": "open_clip",
    "clip": "Hugging Face CLIP",
    "xclip": "Hugging Face X-CLIP",
}
