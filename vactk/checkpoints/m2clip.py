"""The names of M2-CLIP's published code, and ours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from vactk import config as settings
from vactk.checkpoints.import_report import fill
from vactk.errors import VactkError
from vactk.models.backbone import BackboneConfig, load_backbone
from vactk.models.temporal.adapters import FrameAdapterConfig, TEDAdapterConfig
from vactk.models.temporal.registry import TemporalConfig
from vactk.models.text_tower import TextAdapterConfig, TextTower
from vactk.models.video_model import Heads, ModelConfig, VideoModel, new_model, unnamed

_ADAPTER = {"fc1": "down", "conv": "conv", "fc2": "up"}
_DIFFERENCE = {"fc1": "diff_down", "conv": "diff_conv", "fc2": "diff_up"}
_PLAIN = {
    "visual.t_adapter.fc1.": "frame_adapter.down.",
    "visual.t_adapter.conv.": "frame_adapter.conv.",
    "visual.t_adapter.fc2.": "frame_adapter.up.",
    "visual.adapter_fc.": "class_head.fc.",
    "mlm_adapter.transform.dense.": "word_head.dense.",
    "mlm_adapter.transform.LayerNorm.": "word_head.norm.",
    "mlm_adapter.decoder.": "word_head.decoder.",
    "mlm_adapter.bias": "word_head.decoder.bias",
}
_VISUAL = re.compile(
    r"visual\.transformer\.resblocks\.(\d+)\.adapter_(pre_attn|pre_mlp)\.(offset_adapter\.)?(fc1|conv|fc2)\.(\w+)"
)
_TEXT = re.compile(r"transformer\.resblocks\.(\d+)\.adapter_(pre_attn|pre_mlp)\.textad_(fc1|fc2)\.(\w+)")
_TEXT_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")


def is_m2clip(names: Iterable[str]) -> bool:
    """Whether the tensors' names are those of an M2-CLIP checkpoint: adapters and heads, and no CLIP."""
    names = set(names)
    return "visual.conv1.weight" not in names and any(map(_VISUAL.fullmatch, names))


def rename_m2clip(tensors: Mapping[str, Tensor], num_text_blocks: int) -> dict[str, Tensor]:
    """M2-CLIP's tensors under the names of vactk's checkpoints.

    The release keeps the masked-word head's cross-attention as one more text block, number
    `num_text_blocks`: its adapters become the head's, and the rest, a frozen copy of the block before, is
    left out, as vactk uses that block itself.
    """
    renamed = {}
    for name, tensor in tensors.items():
        ours = _rename(name, num_text_blocks)
        if ours is not None:
            renamed[ours] = tensor.squeeze(2) if tensor.ndim == 5 else tensor  # Conv3d (1, 3, 3) is a Conv2d
    return renamed


def _rename(name: str, num_text_blocks: int) -> str | None:
    for theirs, ours in _PLAIN.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    if match := _VISUAL.fullmatch(name):
        block, hook, difference, layer, leaf = match.groups()
        layer = (_DIFFERENCE if difference else _ADAPTER)[layer]
        return f"temporal.{block}.{hook}_adapter.{layer}.{leaf}"
    if match := _TEXT.fullmatch(name):
        block, hook, layer, leaf = match.groups()
        owner = "word_head.adapters" if int(block) == num_text_blocks else f"text_adapters.{block}"
        return f"{owner}.{hook}_adapter.{layer}.{leaf}"
    match = _TEXT_BLOCK.match(name)
    if match and int(match.group(1)) == num_text_blocks:
        return None
    return f"clip.{name}"


# the test protocols of M2-CLIP's release for Kinetics-400, and by the number of classes that a file's head has
M2CLIP_RECIPE: dict[str, Any] = {
    "templates": "video",
    "data": {
        "num_frames": 8,
        "views": 3,
        "sampling": {"name": "m2clip", "stride": 16},
        "transform": {"scaling": "m2clip", "eval_crops": 4},
    },
}
M2CLIP_RECIPES = {
    174: settings.merge(  # Something-Something v2
        M2CLIP_RECIPE, {"data": {"views": 1, "sampling": {"stride": 0}, "transform": {"eval_crops": 3}}}
    )
}
PLACEMENTS: tuple[Literal["pre_attn", "pre_mlp"], ...] = ("pre_attn", "pre_mlp")


def load_m2clip(
    path: Path,
    tensors: dict[str, Tensor],
    backbone: BackboneConfig | None,
    temporal: TemporalConfig | None,
) -> VideoModel:
    if backbone is None:
        raise VactkError(f"'{path}' holds adapters of M2-CLIP without their CLIP: name it with --backbone")
    if temporal is not None:
        raise VactkError(f"'{path}' shows its own temporal module, TED-Adapters: leave out --temporal")
    clip = load_backbone(backbone, weights=False).clip
    num_text_blocks = len(TextTower(clip).blocks)
    rename = partial(rename_m2clip, num_text_blocks=num_text_blocks)
    own = rename(tensors)
    model = new_model(_m2clip_config(own, backbone, num_text_blocks), _m2clip_heads(own))
    clip_names = {name for name in model.module_dict().state_dict() if name.startswith("clip.")}
    report = fill(model, path, "M2-CLIP", tensors, rename, may_lack=clip_names)
    recipe = M2CLIP_RECIPES.get(len(model.heads.classes), M2CLIP_RECIPE)
    info = {"recipe": recipe, "parents": [{"path": str(path), "kind": "M2-CLIP"}], **report}
    return dataclasses.replace(model, info=info)


def _m2clip_config(own: Mapping[str, Tensor], backbone: BackboneConfig, num_text_blocks: int) -> ModelConfig:
    """Placements, widths and kernels as the tensors, under vactk's names, show them."""
    vision = [name for name in own if name.startswith("temporal.")]
    text = [name for name in own if name.startswith(("text_adapters.", "word_head.adapters."))]
    text_blocks = {int(name.split(".")[1]) for name in text if name.startswith("text_adapters.")}
    conv = own[next(name for name in vision if name.endswith("_adapter.conv.weight"))]
    frame_conv = own.get("frame_adapter.conv.weight")
    down = [own[name] for name in text if name.endswith("_adapter.fc1.weight")]
    return ModelConfig(
        backbone=backbone,
        temporal=TEDAdapterConfig(
            width=conv.shape[0],
            kernel_size=conv.shape[2],
            layers=tuple(sorted({int(name.split(".")[1]) for name in vision})),
            placement=_placement(vision),
        ),
        text_adapter=TextAdapterConfig(
            layers=num_text_blocks - min(text_blocks) if text_blocks else 0,
            width=down[0].shape[0] if down else 0,
            placement=_placement(text) if text else "pre_mlp",
        ),
        frame_adapter=FrameAdapterConfig()
        if frame_conv is None
        else FrameAdapterConfig(enabled=True, width=frame_conv.shape[0], kernel_size=frame_conv.shape[2]),
    )


def _placement(names: list[str]) -> Literal["pre_mlp", "pre_attn", "both"]:
    found = [hook for hook in PLACEMENTS if any(f".{hook}_adapter." in name for name in names)]
    return "both" if len(found) == 2 else found[0]


def _m2clip_heads(own: Mapping[str, Tensor]) -> Heads:
    """The file numbers classes and words and does not name them."""
    fc, decoder = own.get("class_head.fc.weight"), own.get("word_head.decoder.weight")
    return Heads(
        classes=() if fc is None else unnamed(len(fc)),
        class_head=fc is not None,
        vocabulary=() if decoder is None else unnamed(len(decoder)),
    )
