"""The names of Open-VCLIP's published code, and ours. FROSTER's code is built on it and has the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

PREFIX = "model."  # before every name of CLIP; what stands beside it is not part of the model
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
