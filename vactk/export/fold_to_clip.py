"""What of a model is a plain CLIP: added modules that change nothing are dropped, those that fold are folded.

The result gives for a picture what the model gives for a video of that one frame. Attention over neighbouring
frames has no weights: it is left out, and that is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from vactk.errors import VactkError
from vactk.models.temporal.adapters import FrameAdapter
from vactk.models.temporal.block import TemporalBlock
from vactk.models.temporal.frame_attention import NeighbourAttention
from vactk.models.temporal.registry import TEMPORAL
from vactk.models.video_clip import VideoCLIP, reads_class_token
from vactk.models.video_model import VideoModel

PROBED_FRAMES = 3


@dataclass(frozen=True)
class PlainCLIP:
    """A model without added modules."""

    state: Mapping[str, Tensor]  # open_clip's own names
    notes: tuple[str, ...]  # what was dropped, folded or left out, in words


def has_plain_form(model: VideoModel) -> bool:
    """Whether `plain_clip` takes a model, heads aside."""
    return not _what_stays(model)


@torch.no_grad()
def plain_clip(model: VideoModel) -> PlainCLIP:
    """The weights of a model as those of its CLIP. Raises VactkError, naming them, for modules that do not fold."""
    stays = _what_stays(model)
    if stays:
        raise VactkError(
            f"{'; '.join(stays)}: these do not fold into the weights of a plain CLIP. --format huggingface keeps "
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
    """The model that plain weights stand for: no module between frames, the adapters on embeddings as they are."""
    blocks = nn.ModuleList(TemporalBlock() for _ in model.video_clip.temporal)
    return VideoCLIP(
        model.video_clip.backbone, blocks, model.video_clip.text_adapters, model.video_clip.frame_adapter
    ).eval()


@torch.no_grad()
def _what_stays(model: VideoModel) -> list[str]:
    """The modules that can neither be left out nor folded, in words."""
    clip = model.video_clip
    visual = cast(Any, clip.backbone).visual
    num_tokens = 1 + visual.grid_size[0] * visual.grid_size[1]
    tokens = _probe(PROBED_FRAMES, num_tokens, visual.transformer.width)
    words = _probe(2, 4, clip.text.tower.ln_final.weight.shape[0])
    vision = [i for i, block in enumerate(clip.temporal) if _changes_tokens(block, tokens)]
    text = [i for i, block in enumerate(clip.text_adapters) if _changes_words(block, words)]
    found = []
    if vision:
        name = next(name for name, kind in TEMPORAL.items() if isinstance(model.config.temporal, kind))
        found.append(f"{name} in vision blocks {_list(vision)}")
    if text:
        found.append(f"adapters in text blocks {_list(text)}")
    foldable = visual.proj is not None and reads_class_token(visual)
    if not foldable and _changes_frames(clip.frame_adapter):
        found.append("the adapter on frame embeddings")
    return found


def _changes_tokens(block: Any, tokens: Tensor) -> bool:
    places = (block.pre_attn, block.pre_mlp)
    return not all(_same(place(tokens, PROBED_FRAMES), tokens) for place in places)


def _changes_words(block: Any, words: Tensor) -> bool:
    return not all(_same(place(words), words) for place in (block.pre_attn, block.pre_mlp))


def _changes_frames(adapter: FrameAdapter | None) -> bool:
    if adapter is None:
        return False
    frames = _probe(1, PROBED_FRAMES, adapter.down.in_features)
    return not _same(adapter(frames), frames)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _fold_frame_adapter(model: VideoModel) -> dict[str, Tensor]:
    """The projection and the norm before it, with the frame adapter in them, as it acts on a single frame.

    Of its convolution over time only the middle tap meets a single frame: f + f M' + c, where f = z P and z is
    what the norm gives. P (1 + M') is the new projection; the norm's bias takes the shift that it makes c.
    """
    visual, adapter = cast(Any, model.video_clip.backbone).visual, model.video_clip.frame_adapter
    assert adapter is not None
    middle = adapter.conv.weight[:, 0, adapter.conv.weight.shape[-1] // 2].double()  # (width,)
    down, up = adapter.down, adapter.up
    moved = (up.weight.double() * middle) @ down.weight.double()  # M, (E, E)
    constant = (
        up.weight.double() @ (middle * down.bias.double() + adapter.conv.bias.double()) + up.bias.double()
    )
    projection = visual.proj.double()  # (D, E)
    projection = projection + projection @ moved.T
    shift = constant @ torch.linalg.pinv(projection)  # (D,)
    return {
        "visual.proj": projection.float(),
        "visual.ln_post.bias": (visual.ln_post.bias.double() + shift).float(),
    }


def _probe(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
