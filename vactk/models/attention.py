"""Residual blocks of the towers, step by step, and attention by their own weights for as many queries as needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from vactk.errors import VactkError


class ResidualBlock(Protocol):
    """x = x + scale_attention(attention(norm_attention(x))), then x = x + mlp(x), for blocks of any tower.

    Attention is left to the caller, between `project_qkv` and `merge_heads`; positions that a block rotates into
    queries and keys are its own matter.
    """

    def norm_attention(self, x: Tensor) -> Tensor:
        """Normalise tokens before attention. (B, N, D) -> the same shape"""

    def project_qkv(self, queries: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project (B, Q, D) to queries, (B, K, D) to keys and values. -> each (B, Q or K, heads, D / heads)"""

    def merge_heads(self, heads: Tensor) -> Tensor:
        """Merge the heads and apply the output projection. (B, Q, heads, D / heads) -> (B, Q, D)"""

    def scale_attention(self, attended: Tensor) -> Tensor:
        """Scale the output of attention, where a block has such a scale. (B, Q, D) -> the same shape"""

    def mlp(self, x: Tensor) -> Tensor:
        """Apply norm, MLP and scale. (B, N, D) -> the same shape"""


def cross_attend(
    block: ResidualBlock, queries: Tensor, context: Tensor, *, mask: Tensor | None = None
) -> Tensor:
    """Attend from `queries` (B, Q, D) to `context` (B, K, D) by `block`'s weights -> (B, Q, D).

    `mask`, boolean and broadcast to (B, heads, Q, K), is true where a query may look. The same result as
    open_clip's, up to rounding, without its copies from batch-first tensors and back. Raises VactkError as
    `project_qkv`.
    """
    query, key, value = (x.transpose(1, 2) for x in block.project_qkv(queries, context))
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return block.merge_heads(attended.transpose(1, 2))


class OpenClipBlock:
    """A residual block of open_clip's towers, or its custom one. It owns no weights."""

    def __init__(self, block: Any) -> None:
        self.block = block
        self.is_standard = isinstance(block.attn, nn.MultiheadAttention)

    def norm_attention(self, x: Tensor) -> Tensor:
        return self.block.ln_1(x)

    def project_qkv(self, queries: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `ResidualBlock`. Raises VactkError for blocks with scaled cosine attention."""
        attn = self.block.attn
        dim = context.shape[-1]
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
        if queries is context:
            projected = F.linear(context, weight, bias).chunk(3, dim=-1)
        else:
            query = F.linear(queries, weight[:dim], bias[:dim])
            projected = (query, *F.linear(context, weight[dim:], bias[dim:]).chunk(2, dim=-1))
        q, k, v = (x.unflatten(-1, (attn.num_heads, -1)) for x in projected)
        if self.is_standard:
            return q, k, v
        if attn.logit_scale is not None:
            raise VactkError("this backbone's blocks have scaled cosine attention; choose another --backbone")
        return attn.ln_q(q), attn.ln_k(k), v

    def merge_heads(self, heads: Tensor) -> Tensor:
        attn = self.block.attn
        if self.is_standard:
            return attn.out_proj(heads.flatten(2))
        if attn.head_scale is not None:
            heads = heads * attn.head_scale.squeeze(-1)
        return self.block.ln_attn(attn.out_drop(attn.out_proj(attn.ln_inner(heads.flatten(2)))))

    def scale_attention(self, attended: Tensor) -> Tensor:
        return self.block.ls_1(attended)

    def mlp(self, x: Tensor) -> Tensor:
        return self.block.ls_2(self.block.mlp(self.block.ln_2(x)))

    def self_attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend with open_clip's own code, to the last bit. x (B, L, D), additive mask (L, L) -> (B, L, D)"""
        if self.is_standard:
            return self.block.attention(q_x=x, attn_mask=mask)
        return self.block.ln_attn(self.block.attn(x, attn_mask=mask.to(x.dtype)))

    def attend_to(self, queries: Tensor, context: Tensor) -> Tensor:
        """Attend from `queries` (B, Q, D) to `context` (B, K, D), with torch's own code where there is such."""
        if not self.is_standard:
            return cross_attend(self, queries, context)
        return self.block.attn(queries, context, context, need_weights=False)[0]


def find_layer(name: str, patterns: Mapping[re.Pattern[str], re.Pattern[str]]) -> int | None:
    """A block's number by the first of `patterns` that finds one, or -1 by those of what lies below all blocks."""
    for layers, below in patterns.items():
        if match := layers.search(name):
            return int(match.group(1))
        if below.search(name):
            return -1
    return None
