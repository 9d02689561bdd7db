"""Attention by the weights of CLIP's own layers, for as many queries as are needed."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


def attend(
    attn: nn.MultiheadAttention, queries: Tensor, context: Tensor, *, mask: Tensor | None = None
) -> Tensor:
    """What `attn` makes of `queries` (B, Q, D) that look at `context` (B, K, D) -> (B, Q, D).

    `mask`, boolean and broadcast to (B, heads, Q, K), is true where a query may look. The same result as
    `nn.MultiheadAttention`, up to rounding, without its copies from batch-first tensors and back.
    """
    q, k, v = project(attn, queries, context)
    return merge(attn, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def project(attn: nn.MultiheadAttention, queries: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of (B, Q, D), keys and values of (B, K, D), each (B, heads, Q or K, D / heads)."""
    weight, bias = cast(Tensor, attn.in_proj_weight), cast(Tensor, attn.in_proj_bias)
    dim = attn.embed_dim
    if queries is context:
        parts = F.linear(context, weight, bias).chunk(3, dim=-1)
    else:
        query = F.linear(queries, weight[:dim], bias[:dim])
        parts = (query, *F.linear(context, weight[dim:], bias[dim:]).chunk(2, dim=-1))
    q, k, v = (part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in parts)
    return q, k, v


def merge(attn: nn.MultiheadAttention, heads: Tensor) -> Tensor:
    """The output projection of what the heads found. (B, heads, Q, D / heads) -> (B, Q, D)"""
    return attn.out_proj(heads.transpose(1, 2).flatten(2))
