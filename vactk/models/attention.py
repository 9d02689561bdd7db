"""Attention by the weights of CLIP's own blocks, for as many queries as are needed."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vactk.errors import VactkError


def cross_attend(block: Any, queries: Tensor, context: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """What `block`'s attention makes of `queries` (B, Q, D) that look at `context` (B, K, D) -> (B, Q, D).

    `mask`, boolean and broadcast to (B, heads, Q, K), is true where a query may look. The same result as
    open_clip's, up to rounding, without its copies from batch-first tensors and back. Raises VactkError as
    `project`.
    """
    query, key, value = (part.transpose(1, 2) for part in project_qkv(block, queries, context))
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return merge_heads(block, attended.transpose(1, 2))


def project_qkv(block: Any, queries: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of (B, Q, D), keys and values of (B, K, D), each (B, Q or K, heads, D / heads).

    Raises VactkError for open_clip's blocks with scaled cosine attention.
    """
    attn = block.attn
    dim = context.shape[-1]
    weight, bias = attn.in_proj_weight, attn.in_proj_bias
    if queries is context:
        parts = F.linear(context, weight, bias).chunk(3, dim=-1)
    else:
        query = F.linear(queries, weight[:dim], bias[:dim])
        parts = (query, *F.linear(context, weight[dim:], bias[dim:]).chunk(2, dim=-1))
    q, k, v = (part.unflatten(-1, (attn.num_heads, -1)) for part in parts)
    if isinstance(attn, nn.MultiheadAttention):
        return q, k, v
    if attn.logit_scale is not None:  # from here on open_clip's custom block
        raise VactkError("this backbone's blocks have scaled cosine attention; choose another --backbone")
    return attn.ln_q(q), attn.ln_k(k), v


def merge_heads(block: Any, heads: Tensor) -> Tensor:
    """What attention adds, from what its heads found. (B, Q, heads, D / heads) -> (B, Q, D)"""
    attn = block.attn
    if isinstance(attn, nn.MultiheadAttention):
        return attn.out_proj(heads.flatten(2))
    if attn.head_scale is not None:
        heads = heads * attn.head_scale.squeeze(-1)
    return block.ln_attn(attn.out_drop(attn.out_proj(attn.ln_inner(heads.flatten(2)))))
