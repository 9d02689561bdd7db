"""The names of Open-VCLIP's published code, and ours. FROSTER's code is built on it and has the same."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vactk.checkpoints.import_report import fill
from vactk.models.backbone import BackboneConfig, named_config
from vactk.models.temporal.adapters import STAdapterConfig
from vactk.models.temporal.frame_attention import CrossFrameAttentionConfig, NeighbourAttentionConfig
from vactk.models.temporal.registry import TemporalConfig
from vactk.models.video_model import ModelConfig, VideoModel, new_model

PREFIX = "model."  # before every name of CLIP; other tensors do not belong to the model
_ADAPTER = {"down": "down", "conv3d": "conv", "up": "up"}
_ST_ADAPTER = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.stadapt_(down|conv3d|up)_1\.(\w+)")
_MESSAGE = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.(message_(?:fc|ln|attn)\..+)")


def is_openvclip(names: Iterable[str]) -> bool:
    """Whether the tensors' names are those of an Open-VCLIP checkpoint."""
    return {"model.visual.conv1.weight", "model.visual.proj"} <= set(names)


def is_froster(names: Iterable[str]) -> bool:
    """Whether the tensors' names are those of a FROSTER checkpoint: its projectors, for training alone, show it."""
    names = set(names)
    return is_openvclip(names) and {"projector_v.0.weight", "projector_t.0.weight"} <= names


def rename_openvclip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Open-VCLIP's tensors under the names of vactk's checkpoints.

    Training checkpoints keep a copy of the original CLIP and other things beside the model: they are left out.
    """
    renamed = {}
    for name, tensor in tensors.items():
        if not name.startswith(PREFIX):
            continue
        ours = _rename(name.removeprefix(PREFIX))
        if ours.startswith("temporal.") and tensor.ndim == 5:  # Conv3d (k, 1, 1): over frames, or linear
            tensor = tensor.flatten(2 if ".conv." in ours else 1)
        renamed[ours] = tensor
    return renamed


def _rename(name: str) -> str:
    if match := _ST_ADAPTER.fullmatch(name):
        block, part, leaf = match.groups()
        return f"temporal.{block}.pre_attn_adapter.{_ADAPTER[part]}.{leaf}"
    if match := _MESSAGE.fullmatch(name):
        return f"temporal.{match.group(1)}.{match.group(2)}"
    return f"clip.{name}"


# the test protocol of Open-VCLIP's release, as settings of a recipe
OPENVCLIP_RECIPE = {
    "templates": "openvclip",
    "data": {
        "num_frames": 8,
        "views": 3,
        "view_mean": "logits",
        "sampling": {"name": "openvclip", "stride": 16},
        "transform": {"scaling": "openvclip"},
    },
}


def load_openvclip(
    path: Path,
    tensors: dict[str, Tensor],
    backbone: BackboneConfig | None,
    temporal: TemporalConfig | None,
    *,
    title: str = "Open-VCLIP",
    recipe: Mapping[str, Any] = OPENVCLIP_RECIPE,
) -> VideoModel:
    clip = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    if backbone is None:  # OpenAI's CLIPs, which Open-VCLIP starts from, have quick_gelu
        backbone = named_config(clip, quick_gelu=True) or BackboneConfig(name=str(path), quick_gelu=True)
    config = ModelConfig(
        backbone=backbone, temporal=temporal or _openvclip_attention(clip), similarity="frames"
    )
    model = new_model(config, weights=False)
    report = fill(model, path, title, tensors, rename_openvclip)
    info = {"recipe": recipe, "parents": [{"path": str(path), "kind": title}], **report}
    return dataclasses.replace(model, info=info)


def load_froster(
    path: Path,
    tensors: dict[str, Tensor],
    backbone: BackboneConfig | None,
    temporal: TemporalConfig | None,
) -> VideoModel:
    recipe = {**OPENVCLIP_RECIPE, "templates": "froster"}
    return load_openvclip(path, tensors, backbone, temporal, title="FROSTER", recipe=recipe)


def _openvclip_attention(tensors: Mapping[str, Tensor]) -> TemporalConfig:
    """The variant that the parameters show; where there are none of its own, neighbouring frames."""
    found: dict[str, Any] = {name.rsplit(".", 2)[-2]: tensor for name, tensor in tensors.items()}
    if "message_fc" in found:
        return CrossFrameAttentionConfig()
    if "stadapt_down_1" in found:
        weight = tensors["model.visual.transformer.resblocks.0.stadapt_conv3d_1.weight"]
        return STAdapterConfig(width=weight.shape[0], kernel_size=weight.shape[2])
    return NeighbourAttentionConfig()
