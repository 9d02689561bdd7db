"""Video checkpoints by their file, whichever project wrote them.

vactk's own say what they are. Of other projects' files the names of the tensors tell; what such a file does not
say, as how its frames attend to each other, is assumed as published and can be set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vactk import config as settings
from vactk.errors import VactkError
from vactk.models.backbone import BackboneConfig, named_config
from vactk.models.checkpoint import ModelConfig, VideoModel, load_model, new_model
from vactk.models.frame_attention import CrossFrameAttentionConfig, NeighbourAttentionConfig
from vactk.models.temporal import STAdapterConfig
from vactk.models.temporal_table import TemporalConfig
from vactk.weights.files import load_exactly
from vactk.weights.foreign import read_state_dict
from vactk.weights.openvclip import is_openvclip, rename_openvclip

# the test protocol of Open-VCLIP's release, in the words of a recipe
OPENVCLIP_RECIPE = {
    "templates": "openvclip",
    "data": {"num_frames": 8, "views": 3, "sampling": {"name": "dense", "stride": 16}},
}


@dataclass(frozen=True)
class ForeignKind:
    """A kind of file: how its tensors' names show it, and how they become a model."""

    title: str
    recognise: Callable[[Mapping[str, Tensor]], bool]
    load: Callable[[Path, dict[str, Tensor], BackboneConfig | None, TemporalConfig | None], VideoModel]


def open_model(path: Path, stated: Mapping[str, Any] | None = None) -> VideoModel:
    """The model of a vactk checkpoint, a run folder, or another project's video checkpoint, on the CPU.

    `stated` holds settings of ModelConfig: of another project's file the `backbone` and the `temporal` module,
    of vactk's own, which say both, no more than `backbone.pretrained`, where its frozen weights now lie. Raises
    VactkError when more is stated, and as `load_model` and `load_foreign` do.
    """
    stated = stated or {}
    backbone = dict(stated.get("backbone", {}))
    if is_foreign(path):
        config = settings.build(ModelConfig, stated)
        return load_foreign(
            path, config.backbone if backbone else None, config.temporal if "temporal" in stated else None
        )
    if "name" in backbone:
        raise VactkError("a checkpoint names its own backbone: leave out --backbone")
    if "temporal" in stated:
        raise VactkError("a checkpoint names its own temporal module: leave out --temporal")
    return load_model(path, pretrained=backbone.get("pretrained", ""))


def is_foreign(path: Path) -> bool:
    """Whether a file is for `load_foreign`: vactk's own checkpoints are .safetensors files."""
    return path.is_file() and path.suffix != ".safetensors"


def load_foreign(
    path: Path, backbone: BackboneConfig | None = None, temporal: TemporalConfig | None = None
) -> VideoModel:
    """The model of another project's video checkpoint, in evaluation mode on the CPU.

    Without `backbone`, the architecture is read off the tensors where they hold a whole CLIP; without
    `temporal`, it is as the project published it. Raises VactkError when the file is damaged, of no known
    kind, or does not fit the two.
    """
    tensors = read_state_dict(path)
    for kind in FOREIGN.values():
        if kind.recognise(tensors):
            return kind.load(path, tensors, backbone, temporal)
    known = ", ".join(kind.title for kind in FOREIGN.values())
    raise VactkError(
        f"'{path}' is not a video checkpoint that vactk knows ({known}, and its own .safetensors); "
        "weights of a plain CLIP go to --pretrained or --backbone"
    )


def _load_openvclip(
    path: Path,
    tensors: dict[str, Tensor],
    backbone: BackboneConfig | None,
    temporal: TemporalConfig | None,
) -> VideoModel:
    tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    if backbone is None:  # OpenAI's CLIPs, which Open-VCLIP starts from, have quick_gelu
        backbone = named_config(tensors, quick_gelu=True) or BackboneConfig(name=str(path), quick_gelu=True)
    config = ModelConfig(
        backbone=backbone, temporal=temporal or _openvclip_attention(tensors), similarity="frames"
    )
    model = new_model(config, weights=False)
    renamed = {name: tensor.float() for name, tensor in rename_openvclip(tensors).items()}
    load_exactly(model.modules(), renamed, may_lack=set(), source=f"'{path}'")
    info = {"recipe": OPENVCLIP_RECIPE, "parents": [{"path": str(path), "kind": "Open-VCLIP"}]}
    return dataclasses.replace(model, info=info)


def _openvclip_attention(tensors: Mapping[str, Tensor]) -> TemporalConfig:
    """The variant that the parameters show; where there are none of its own, neighbouring frames."""
    found: dict[str, Any] = {name.rsplit(".", 2)[-2]: tensor for name, tensor in tensors.items()}
    if "message_fc" in found:
        return CrossFrameAttentionConfig()
    if "stadapt_down_1" in found:
        weight = tensors["model.visual.transformer.resblocks.0.stadapt_conv3d_1.weight"]
        return STAdapterConfig(width=weight.shape[0], kernel_size=weight.shape[2])
    return NeighbourAttentionConfig()


FOREIGN = {
    "openvclip": ForeignKind("Open-VCLIP", is_openvclip, _load_openvclip),
}
