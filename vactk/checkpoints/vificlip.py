"""The names of ViFi-CLIP's published code, and ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from vactk.checkpoints.import_report import fill
from vactk.errors import VactkError
from vactk.models.backbone import BackboneConfig
from vactk.models.temporal.adapters import NoTemporal
from vactk.models.temporal.registry import TemporalConfig
from vactk.models.video_model import ModelConfig, VideoModel, new_model

_PREFIXES = {
    "image_encoder.": "clip.visual.",
    "text_encoder.": "clip.",
    "logit_scale": "clip.logit_scale",
}
# embeddings of the prompts of its own classes, which its code too drops on loading
CLASS_PROMPTS = (
    "prompt_learner.complete_text_embeddings",
    "prompt_learner.token_prefix",
    "prompt_learner.token_suffix",
)
# CLIP's token embedding is not in the file: its code keeps that outside of the model, as it was
ABSENT = ("clip.token_embedding.weight",)


def is_vificlip(names: Iterable[str]) -> bool:
    """Whether the tensors' names are those of a ViFi-CLIP checkpoint."""
    return {"image_encoder.conv1.weight", "text_encoder.ln_final.weight"} <= set(names)


def rename_vificlip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ViFi-CLIP's tensors under the names of vactk's checkpoints.

    Prompt vectors (`prompt_learner.ctx`, `VPT`) are left out.
    """
    renamed = {}
    for name, tensor in tensors.items():
        for theirs, ours in _PREFIXES.items():
            if name.startswith(theirs) and "VPT" not in name:
                renamed[ours + name.removeprefix(theirs)] = tensor
    return renamed


# the test protocol of ViFi-CLIP's release
VIFICLIP_RECIPE = {"templates": "plain", "data": {"num_frames": 32}}


def load_vificlip(
    path: Path,
    tensors: dict[str, Tensor],
    backbone: BackboneConfig | None,
    temporal: TemporalConfig | None,
) -> VideoModel:
    if backbone is None:
        raise VactkError(
            f"'{path}' holds ViFi-CLIP's towers without CLIP's token embedding: name that CLIP with --backbone, "
            "such as --backbone ViT-B-16"
        )
    model = new_model(ModelConfig(backbone=backbone, temporal=temporal or NoTemporal()))

    def knows(name: str) -> bool:
        return name in CLASS_PROMPTS

    report = fill(model, path, "ViFi-CLIP", tensors, rename_vificlip, may_lack=set(ABSENT), known=knows)
    info = {"recipe": VIFICLIP_RECIPE, "parents": [{"path": str(path), "kind": "ViFi-CLIP"}], **report}
    return dataclasses.replace(model, info=info)
