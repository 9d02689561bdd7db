"""The hooks that temporal modules have inside a residual block."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vactk.errors import VactkError
from vactk.models.attention import ResidualBlock, cross_attend


class TemporalBlock(nn.Module):
    """Hooks of a residual block of the vision tower. This base class adds nothing.

    x = pre_attn(x);  x = x + attention(norm(x));  x = pre_mlp(x);  x = x + mlp(norm(x))

    Where pooling reads the class token alone, only that is computed from the last block's attention on: there
    `attention` is asked for one query, and `pre_mlp` gets one token of each frame.
    """

    def pre_attn(self, x: Tensor, num_frames: int) -> Tensor:
        """Tokens before attention. (B*T, N, D) -> the same; more at their end take part in this attention only."""
        return x

    def attention(self, block: ResidualBlock, x: Tensor, num_frames: int, num_queries: int) -> Tensor:
        """Attend from the first `num_queries` tokens by `block`'s own weights.

        x, the normalised tokens, (B*T, N, D) -> (B*T, num_queries, D)
        """
        return cross_attend(block, x if num_queries == x.shape[1] else x[:, :num_queries], x)

    def pre_mlp(self, x: Tensor, num_frames: int) -> Tensor:
        """Tokens before the MLP. (B*T, N, D) -> the same shape; N is 1 in the last block."""
        return x

    def unused_by_class_token(self) -> Iterator[nn.Parameter]:
        """Parameters of `pre_mlp` that the class token never meets: in the last block they do nothing."""
        yield from ()

    def is_identity(self, block: ResidualBlock, x: Tensor, num_frames: int) -> bool:
        """Whether every hook leaves `block` as CLIP has it, to the last bit, on the tokens x (B*T, N, D)."""
        hooks = (self.pre_attn(x, num_frames), self.pre_mlp(x, num_frames))
        if not all(torch.equal(found, x) for found in hooks):
            return False
        expected = TemporalBlock.attention(self, block, x, num_frames, x.shape[1])
        return torch.equal(self.attention(block, x, num_frames, x.shape[1]), expected)


def chosen_layers(layers: tuple[int, ...], num_blocks: int) -> set[int]:
    """Block numbers from a setting that may count from the end; empty: all. Raises VactkError outside the tower."""
    outside = [layer for layer in layers if not -num_blocks <= layer < num_blocks]
    if outside:
        raise VactkError(f"there is no block {outside[0]}: the vision tower has {num_blocks} blocks")
    return {layer % num_blocks for layer in layers or range(num_blocks)}
