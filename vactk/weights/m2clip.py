"""The names of M2-CLIP's published code, and ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

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
        block, place, difference, part, leaf = match.groups()
        part = (_DIFFERENCE if difference else _ADAPTER)[part]
        return f"temporal.{block}.{place}_adapter.{part}.{leaf}"
    if match := _TEXT.fullmatch(name):
        block, place, part, leaf = match.groups()
        owner = "word_head.adapters" if int(block) == num_text_blocks else f"text_adapters.{block}"
        return f"{owner}.{place}_adapter.{part}.{leaf}"
    match = _TEXT_BLOCK.match(name)
    if match and int(match.group(1)) == num_text_blocks:
        return None
    return f"clip.{name}"
