"""Attention over frames: a frame's tokens also see its neighbours' (Open-VCLIP), or messages between frames.

Tokens are (B*T, N, D), frames of a video contiguous, the class token first. The attention weights of CLIP's own
blocks are used as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vactk.errors import VactkError
from vactk.models.attention import ResidualBlock
from vactk.models.temporal.block import TemporalBlock, chosen_layers

HEAD_WIDTH = 64  # channels of an attention head in every CLIP of OpenAI's


class NeighbourAttention(TemporalBlock):
    """Keys and values of a frame's tokens are those of the frames up to `window` away (Open-VCLIP, section 3.2).

    It has no parameters. `zeros` keeps keys and values of zero for the frames beyond both ends: they take
    part in the softmax with a logit of 0, as published. Otherwise those frames are left out.
    """

    def __init__(self, window: int = 1, *, zeros: bool = True) -> None:
        super().__init__()
        self.window = window
        self.zeros = zeros

    def attention(self, block: ResidualBlock, x: Tensor, num_frames: int, num_queries: int) -> Tensor:
        queries = x if num_queries == x.shape[1] else x[:, :num_queries]
        query, key, value = block.project_qkv(queries, x)
        attended = attend_to_neighbours(query, key, value, num_frames, window=self.window, zeros=self.zeros)
        return block.merge_heads(attended)


def attend_to_neighbours(
    query: Tensor, key: Tensor, value: Tensor, num_frames: int, *, window: int, zeros: bool
) -> Tensor:
    """Scaled dot-product attention of every frame to itself and the frames up to `window` away.

    query (B*T, Q, heads, C), key and value (B*T, N, heads, C) -> (B*T, Q, heads, C), for any T. Frames beyond
    the ends count as zero keys and values (`zeros`), or not at all.
    """
    query, key, value = (x.unflatten(0, (-1, num_frames)) for x in (query, key, value))  # (B, T, tokens, ...)
    tokens = key.shape[2]
    cut_short = [*range(min(window, num_frames)), *range(max(window, num_frames - window), num_frames)]
    attended = {}
    for t in cut_short:
        start, stop = max(0, t - window), min(num_frames, t + window + 1)
        missing = (2 * window + 1 - (stop - start)) * tokens if zeros else 0
        attended[t] = _attend(
            query[:, t], key[:, start:stop].flatten(1, 2), value[:, start:stop].flatten(1, 2), missing
        )[:, None]
    whole = num_frames - 2 * window  # frames with all their neighbours
    if whole > 0:
        near_keys, near_values = (
            torch.cat([x[:, i : i + whole] for i in range(2 * window + 1)], dim=2).flatten(0, 1)
            for x in (key, value)
        )
        inner = _attend(query[:, window : window + whole].flatten(0, 1), near_keys, near_values, 0)
        attended[window] = inner.unflatten(0, (-1, whole))  # (B, whole, Q, heads, C)
    return torch.cat([attended[t] for t in sorted(attended)], dim=1).flatten(0, 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, zero_tokens: int) -> Tensor:
    """(B, Q, heads, C), (B, S, heads, C) twice -> (B, Q, heads, C); `zero_tokens` more keys and values are zero."""
    mask = None
    if zero_tokens:  # n logits of 0 weigh as one of log(n)
        key, value = (F.pad(x, (0, 0, 0, 0, 0, 1)) for x in (key, value))
        mask = F.pad(query.new_zeros(key.shape[1] - 1), (0, 1), value=math.log(zero_tokens))
        mask = mask.expand(query.shape[1], -1)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


class CrossFrameAttention(TemporalBlock):
    """A message token for each frame, which talks to the other frames' messages and is attended to by its own.

    message = fc(class token); message = message + attention(ln(message)) over the T frames; then CLIP's own
    attention sees one more token, which is not among its queries and goes no further. From X-CLIP (Ni et al.,
    ECCV 2022), as in Open-VCLIP's `cross_frame_attend`. As published it is not the identity at first: the new
    token takes its share of the attention.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.message_fc = nn.Linear(dim, dim)
        self.message_ln = nn.LayerNorm(dim)
        self.message_attn = nn.MultiheadAttention(dim, heads, batch_first=True)

    def pre_attn(self, x: Tensor, num_frames: int) -> Tensor:
        """(B*T, N, D) -> (B*T, N+1, D), with the message as the last token."""
        message = self.message_fc(x[:, 0]).unflatten(0, (-1, num_frames))  # (B, T, D)
        seen = self.message_ln(message)
        message = message + self.message_attn(seen, seen, seen, need_weights=False)[0]
        return torch.cat([x, message.flatten(0, 1)[:, None]], dim=1)


@dataclass(frozen=True, kw_only=True)
class NeighbourAttentionConfig:
    """Open-VCLIP's attention: every frame also attends to its neighbours. Adds no parameters."""

    window: int = 1  # frames seen on either side, 1 to 3
    ends: Literal["zeros", "masked"] = "zeros"  # frames beyond both ends; published weights need zeros
    layers: tuple[int, ...] = ()  # blocks that attend so, negative from the end; empty: all

    def __post_init__(self) -> None:
        if not 1 <= self.window <= 3:
            raise VactkError(f"the window of neighbour_attention must be 1, 2 or 3 frames, got {self.window}")

    def build(self, dim: int, grid: tuple[int, int], num_blocks: int) -> nn.ModuleList:
        """A TemporalBlock for each of `num_blocks` residual blocks of width `dim`."""
        chosen = chosen_layers(self.layers, num_blocks)
        return nn.ModuleList(
            NeighbourAttention(self.window, zeros=self.ends == "zeros") if i in chosen else TemporalBlock()
            for i in range(num_blocks)
        )


@dataclass(frozen=True, kw_only=True)
class CrossFrameAttentionConfig:
    """Message tokens between frames, as in X-CLIP. Not the identity at first."""

    heads: int = 0  # of the attention between messages; 0: one for every 64 channels
    layers: tuple[int, ...] = ()  # blocks that exchange messages, negative from the end; empty: all

    def build(self, dim: int, grid: tuple[int, int], num_blocks: int) -> nn.ModuleList:
        """A TemporalBlock for each of `num_blocks` residual blocks of width `dim`."""
        heads = self.heads or max(1, dim // HEAD_WIDTH)
        if heads < 0 or dim % heads:
            raise VactkError(
                f"cross_frame_attention needs heads that divide the tower's width {dim}, got {heads}"
            )
        chosen = chosen_layers(self.layers, num_blocks)
        return nn.ModuleList(
            CrossFrameAttention(dim, heads) if i in chosen else TemporalBlock() for i in range(num_blocks)
        )
