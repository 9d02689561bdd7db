"""Fold a model back into a plain CLIP: drop identity modules, fold linear ones, refuse the rest.

The result embeds an image as the model embeds a video of that one frame. Attention over neighbouring frames has
no weights: it is left out, with a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from vactk.errors import VactkError
from vactk.models.attention import ResidualBlock
from vactk.models.temporal.adapters import FrameAdapter
from vactk.models.temporal.block import TemporalBlock
from vactk.models.temporal.frame_attention import NeighbourAttention
from vactk.models.temporal.registry import TEMPORAL
from vactk.models.text_tower import TextBlock
from vactk.models.video_clip import VideoCLIP
from vactk.models.video_model import VideoModel

PROBED_FRAMES = 3


@dataclass(frozen=True)
class PlainCLIP:
    """A model without added modules."""

    state: Mapping[str, Tensor]  # open_clip's own names
    notes: tuple[str, ...]  # for the user: modules dropped, folded or left out


def has_plain_form(model: VideoModel) -> bool:
    """Whether `plain_clip` takes a model, heads aside."""
    return not _not_foldable(model)


@torch.no_grad()
def plain_clip(model: VideoModel) -> PlainCLIP:
    """Fold a model into the weights of its CLIP. Raises VactkError that names the modules that do not fold."""
    if refused := _not_foldable(model):
        raise VactkError(
            f"{'; '.join(refused)}: these do not fold into the weights of a plain CLIP. --format huggingface keeps "
            "them, and onnx, pt2 and torchscript compute with them"
        )
    state = dict(model.video_clip.backbone.state_dict())
    notes = []
    if any(
        True
        for added in (model.video_clip.temporal, model.video_clip.text_adapters)
        for _ in added.parameters()
    ):
        notes.append("added modules that change nothing are left out")
    if any(isinstance(block, NeighbourAttention) for block in model.video_clip.temporal):
        notes.append("attention over neighbouring frames has no weights: a plain CLIP sees frames apart")
    if _changes_frames(model.video_clip.frame_adapter):
        state.update(_fold_frame_adapter(model))
        notes.append("the adapter on frame embeddings is folded, as it acts on a single frame")
    if model.class_head is not None or model.word_head is not None:
        notes.append("the class and word heads are left out")
    return PlainCLIP(state, tuple(notes))


def frames_apart(model: VideoModel) -> VideoCLIP:
    """The model that plain weights stand for: no module between frames, the adapter on embeddings as it is."""
    blocks = nn.ModuleList(TemporalBlock() for _ in model.video_clip.temporal)
    return VideoCLIP(
        model.video_clip.backbone, blocks, model.video_clip.text_adapters, model.video_clip.frame_adapter
    ).eval()


@torch.no_grad()
def _not_foldable(model: VideoModel) -> list[str]:
    """Name the modules that can neither be left out nor folded."""
    clip = model.video_clip
    tower, text = clip.vision, clip.text
    tokens = _probe(PROBED_FRAMES, 1 + tower.grid[0] * tower.grid[1], tower.width)
    words = _probe(2, 4, text.width)
    found = []
    if vision := [
        number
        for number, (block, added) in enumerate(zip(tower.blocks, clip.temporal, strict=True))
        if not _is_dropped(cast(TemporalBlock, added), block, tokens)
    ]:
        kind = next(name for name, kind in TEMPORAL.items() if isinstance(model.config.temporal, kind))
        found.append(f"{kind} in vision blocks {_list(vision)}")
    adapters = [cast(TextBlock, added) for added in clip.text_adapters]
    if changing := [number for number, added in enumerate(adapters) if not added.is_identity(words)]:
        found.append(f"adapters in text blocks {_list(changing)}")
    if not tower.can_fold and _changes_frames(clip.frame_adapter):
        found.append("the adapter on frame embeddings")
    return found


def _is_dropped(added: TemporalBlock, block: ResidualBlock, tokens: Tensor) -> bool:
    """Whether a block is the identity, or the attention between frames that a plain CLIP does without."""
    return type(added) is NeighbourAttention or added.is_identity(block, tokens, PROBED_FRAMES)


def _changes_frames(adapter: FrameAdapter | None) -> bool:
    if adapter is None:
        return False
    frames = _probe(1, PROBED_FRAMES, adapter.down.in_features)
    return not torch.equal(adapter(frames), frames)


def _fold_frame_adapter(model: VideoModel) -> dict[str, Tensor]:
    """The tensors of CLIP that change when the frame adapter is folded in, as it acts on a single frame.

    Of its convolution over time only the middle tap meets a single frame, so that it maps f to f + M f + c.
    """
    adapter = model.video_clip.frame_adapter
    assert adapter is not None
    middle = adapter.conv.weight[:, 0, adapter.conv.weight.shape[-1] // 2].double()  # (width,)
    down, up = adapter.down, adapter.up
    weight = (up.weight.double() * middle) @ down.weight.double()  # M, (E, E)
    bias = up.weight.double() @ (middle * down.bias.double() + adapter.conv.bias.double()) + up.bias.double()
    return model.video_clip.vision.fold_into_output(weight, bias)


def _probe(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
