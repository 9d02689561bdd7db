"""M2-CLIP written down plainly, on the weights of a VideoTextTask: what vactk is measured against.

Stock open_clip blocks, every token of the last block, convolutions over time as Conv1d, the two branches of
the adapter one after the other, and every class prompt through the whole text tower at its full context.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vactk.models.losses import contrastive_loss, cross_modal_loss, masked_word_loss
from vactk.models.temporal.adapters import TEDAdapter, TimeConv
from vactk.models.text_tower import TextAdapter, TextBlock
from vactk.models.video_clip import VideoCLIP
from vactk.train.task import DRAWS_STEPS, VideoTextTask


def over_time(conv: TimeConv, x: Tensor, num_frames: int) -> Tensor:
    """(B*T, N, C) through a Conv1d over T."""
    rows, tokens, width = x.shape
    sequences = x.view(-1, num_frames, tokens, width).permute(0, 2, 3, 1).reshape(-1, width, num_frames)
    out = F.conv1d(sequences, conv.weight, conv.bias, padding=conv.weight.shape[2] // 2, groups=width)
    return out.view(-1, tokens, width, num_frames).permute(0, 3, 1, 2).reshape(rows, tokens, width)


def ted(adapter: TEDAdapter, x: Tensor, num_frames: int) -> Tensor:
    """The TED-Adapter, line by line as in the paper."""
    enhanced = adapter.up(over_time(adapter.conv, adapter.down(x), num_frames))
    frames = x[:, 1:].unflatten(0, (-1, num_frames))
    change = (frames - torch.cat([frames[:, :1], frames[:, :-1]], dim=1)).flatten(0, 1)
    image = adapter.diff_down(change).transpose(1, 2).unflatten(2, adapter.grid).contiguous()
    difference = adapter.diff_up(adapter.diff_conv(image).flatten(2).transpose(1, 2))
    nothing = torch.zeros_like(x[:, :1])
    return x + enhanced + torch.cat([nothing, difference], dim=1)


def frame_embeddings(model: VideoCLIP, video: Tensor) -> tuple[Tensor, Tensor]:
    """video (B, T, 3, H, W) -> frames (B, T, E), pooled (B, D)"""
    visual: Any = model.backbone.visual
    num_frames = video.shape[1]
    x = visual._embeds(video.flatten(0, 1))
    for block, added in zip(visual.transformer.resblocks, model.temporal, strict=True):
        if added.pre_attn_adapter is not None:
            x = ted(added.pre_attn_adapter, x, num_frames)
        x = x + block.attention(block.ln_1(x))
        if added.pre_mlp_adapter is not None:
            x = ted(added.pre_mlp_adapter, x, num_frames)
        x = x + block.mlp(block.ln_2(x))
    frames = (visual.ln_post(x)[:, 0] @ visual.proj).unflatten(0, (-1, num_frames))
    adapter = model.frame_adapter
    if adapter is not None:
        hidden = over_time(adapter.conv, adapter.down(frames).flatten(0, 1)[:, None], num_frames)
        frames = frames + adapter.up(hidden).view_as(frames)
    return frames, visual.ln_post(x[:, 0].unflatten(0, (-1, num_frames)).mean(dim=1))


def adapt(adapter: TextAdapter | None, x: Tensor) -> Tensor:
    """A text adapter, where there is one."""
    return x if adapter is None else adapter(x)


def text_hidden(model: VideoCLIP, tokens: Tensor) -> Tensor:
    """tokens (B, 77) -> the residual stream after the last block, all tokens"""
    clip: Any = model.backbone
    x = clip.token_embedding(tokens) + clip.positional_embedding
    for block, added in zip(clip.transformer.resblocks, model.text_adapters, strict=True):
        assert isinstance(added, TextBlock)
        x = adapt(added.pre_attn_adapter, x)
        x = x + block.attention(block.ln_1(x), attn_mask=clip.attn_mask)
        x = adapt(added.pre_mlp_adapter, x)
        x = x + block.mlp(block.ln_2(x))
    return x


def text_embedding(model: VideoCLIP, tokens: Tensor, hidden: Tensor) -> Tensor:
    """(B, E) of unit norm, at each prompt's end token."""
    clip: Any = model.backbone
    at_end = clip.ln_final(hidden)[torch.arange(len(tokens)), tokens.argmax(dim=-1)]
    return F.normalize(at_end @ clip.text_projection, dim=-1)


def losses(task: VideoTextTask, video: Tensor, labels: Tensor, class_tokens: Tensor) -> Tensor:
    """The weighted sum of all four losses. class_tokens (C, 77)"""
    model = task.clip
    assert task.masked is not None
    assert task.word_head is not None
    assert task.class_head is not None
    frames, pooled = frame_embeddings(model, video)
    torch.manual_seed(0)
    seeds = (torch.rand(len(labels)) * DRAWS_STEPS).long().tolist()  # what the task draws first
    tokens, word_labels = task.masked.draw(labels, seeds)
    padding = class_tokens.shape[1] - tokens.shape[1]
    tokens, word_labels = F.pad(tokens, (0, padding)), F.pad(word_labels, (0, padding), value=-100)
    hidden = text_hidden(model, tokens)
    words = task.word_head(model.text, hidden, frames)
    class_text = text_embedding(model, class_tokens, text_hidden(model, class_tokens))
    embedding = F.normalize(frames.mean(dim=1), dim=-1)
    found = {
        "contrastive": contrastive_loss(embedding, class_text[labels], labels, model.logit_scale),
        "cross_modal": cross_modal_loss(embedding, class_text, labels, model.logit_scale),
        "masked_words": masked_word_loss(words, word_labels),
        "visual": F.cross_entropy(task.class_head(pooled, seeds), labels),
    }
    return torch.stack([weight * found[name] for name, weight in task.weights.items()]).sum()
