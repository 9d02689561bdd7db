"""The names of ViFi-CLIP's published code, and ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

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

    Prompt vectors (`prompt_learner.ctx`, `VPT`) have no place here.
    """
    renamed = {}
    for name, tensor in tensors.items():
        for theirs, ours in _PREFIXES.items():
            if name.startswith(theirs) and "VPT" not in name:
                renamed[ours + name.removeprefix(theirs)] = tensor
    return renamed
