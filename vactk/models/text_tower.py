"""CLIP's text tower with adapters, run only as far as the prompts and the pooled token need.

With end-of-text pooling and a causal mask nothing after a prompt's last token matters, so prompts are cut at
the longest, and the last block computes the pooled token alone. What comes before the first adapter is
frozen: for the clean class prompts it is computed once (`frozen_part`), and a training step runs the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vactk.errors import VactkError
from vactk.models.attention import OpenClipBlock, cross_attend, find_layer


class TextAdapter(nn.Module):
    """x + fc2(gelu(fc1(x))), the exact (erf) gelu (M2-CLIP, section 3.2). `fc2` starts at zero."""

    def __init__(self, dim: int, width: int, *, identity: bool = True) -> None:
        """`identity=False` starts as the original release does: not the identity."""
        super().__init__()
        self.fc1 = nn.Linear(dim, width)
        self.fc2 = nn.Linear(width, dim)
        nn.init.zeros_(self.fc1.bias)
        nn.init.zeros_(self.fc2.bias)
        if identity:
            nn.init.zeros_(self.fc2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> the same shape."""
        return x + self.fc2(F.gelu(self.fc1(x)))


class TextBlock(nn.Module):
    """The hooks of a residual block of the text tower: adapters before attention and before the MLP."""

    def __init__(self, pre_attn: TextAdapter | None = None, pre_mlp: TextAdapter | None = None) -> None:
        super().__init__()
        self.pre_attn_adapter = pre_attn
        self.pre_mlp_adapter = pre_mlp

    def pre_attn(self, x: Tensor) -> Tensor:
        """Tokens before attention. (B, L, D) -> the same shape."""
        return x if self.pre_attn_adapter is None else self.pre_attn_adapter(x)

    def pre_mlp(self, x: Tensor) -> Tensor:
        """Tokens before the MLP. (B, L, D) -> the same shape."""
        return x if self.pre_mlp_adapter is None else self.pre_mlp_adapter(x)

    def is_identity(self, x: Tensor) -> bool:
        """Whether the hooks leave the tokens x (B, L, D) as they are, to the last bit."""
        return torch.equal(self.pre_attn(x), x) and torch.equal(self.pre_mlp(x), x)


@dataclass(frozen=True, kw_only=True)
class TextAdapterConfig:
    """Adapters in the last blocks of the text tower; none by default."""

    layers: int = 0  # blocks that carry adapters, counted from the last; -1: all
    width: int = 0  # bottleneck channels; 0: three quarters of the tower's width, as published
    placement: Literal["pre_mlp", "pre_attn", "both"] = "pre_mlp"
    identity_init: bool = True  # false: start as the original release does

    def build(self, dim: int, num_blocks: int) -> nn.ModuleList:
        """A TextBlock for each of `num_blocks` blocks of width `dim`. Raises VactkError when they are fewer."""
        if not -1 <= self.layers <= num_blocks or self.width < 0:
            raise VactkError(
                f"text adapters need layers from 0 to {num_blocks}, or -1, and a width of at least 0, "
                f"got {self.layers} and {self.width}"
            )
        first = 0 if self.layers == -1 else num_blocks - self.layers
        return nn.ModuleList(self.block(dim) if i >= first else TextBlock() for i in range(num_blocks))

    def block(self, dim: int) -> TextBlock:
        """One TextBlock with adapters where `placement` says."""

        def adapter(hook: str) -> TextAdapter | None:
            wanted = self.placement in (hook, "both")
            return (
                TextAdapter(dim, self.width or dim * 3 // 4, identity=self.identity_init) if wanted else None
            )

        return TextBlock(adapter("pre_attn"), adapter("pre_mlp"))


class Prompts(NamedTuple):
    """Prompts on their way through the tower."""

    hidden: Tensor  # (B, L, D); (B, 1, D) once only the pooled token is left
    end: Tensor  # (B,) int64, the position of the pooled token among the L
    block: int  # the block that comes next, or is under way
    attended: bool  # whether that block's attention is done


class TextTower:
    """The text tower of an open_clip model, with the TextBlocks in `added`, if any. It owns no weights.

    Raises VactkError when `added` holds adapters and the tower does not read from left to right up to a
    pooled token, as CLIP's own does.
    """

    LAYERS = re.compile(r"transformer\.resblocks\.(\d+)\.")
    BELOW = re.compile(r"\b(positional_embedding|token_embedding)")

    def __init__(self, clip: Any, added: nn.ModuleList | None = None) -> None:
        self.clip = clip
        apart = hasattr(clip, "text")  # CustomTextCLIP
        self.tower = clip.text if apart else clip
        self.blocks = [OpenClipBlock(block) for block in self.tower.transformer.resblocks]
        self.added = nn.ModuleList(TextBlock() for _ in self.blocks) if added is None else added
        pool = clip.text.pool_type if apart else clip.text_pool_type
        self.is_causal = pool == "argmax" and self.tower.attn_mask is not None
        self.is_plain = not any(True for _ in self.added.parameters())
        if not self.is_causal and not self.is_plain:
            raise VactkError(f"text adapters need a causal text tower with end-of-text pooling, not '{pool}'")

    @property
    def width(self) -> int:
        """Channels of a token."""
        return int(self.tower.ln_final.weight.shape[0])

    @property
    def vocab_size(self) -> int:
        """The number of tokens; the highest one ends a text."""
        return int(self.tower.token_embedding.weight.shape[0])

    @property
    def context_length(self) -> int:
        """The most tokens that a text can have, start and end among them."""
        return int(self.clip.context_length)

    def final_norm(self, x: Tensor) -> Tensor:
        """The norm after the last block. (B, L, D) -> the same shape"""
        return self.tower.ln_final(x)

    def encode(self, tokens: Tensor) -> Tensor:
        """tokens (B, L) int64 -> (B, E), not normalised. Prompts may be cut (`trim`) where the tower is causal.

        Without adapters and with the whole context, this is open_clip's own forward pass, to the last bit.
        """
        if not self.is_causal or (self.is_plain and tokens.shape[1] == self.context_length):
            return self.clip.encode_text(tokens)
        return self.pool(self.finish(self.start(tokens)))

    def hidden(self, tokens: Tensor) -> Prompts:
        """tokens (B, L) -> the residual stream of every token after the last block, before the final norm."""
        return self.finish(self.start(tokens), keep_all=True)

    def trim(self, tokens: Tensor) -> Tensor:
        """Cut padding that no prompt needs. tokens (B, L) -> (B, longest), where that changes no result."""
        return tokens[:, : int(tokens.argmax(dim=-1).max()) + 1] if self.is_causal else tokens

    def start(self, tokens: Tensor) -> Prompts:
        """The token embeddings of prompts. tokens (B, L)"""
        x = self.tower.token_embedding(tokens) + self.tower.positional_embedding[: tokens.shape[1]]
        return Prompts(x, tokens.argmax(dim=-1), 0, False)

    @torch.no_grad()
    def frozen_part(self, tokens: Tensor) -> Prompts:
        """Prompts as far as they do not depend on adapters. tokens (B, L)"""
        prompts = self.start(tokens)
        for number, added in enumerate(self.added):
            assert isinstance(added, TextBlock)
            if added.pre_attn_adapter is not None:
                break
            prompts = self._attend(prompts, keep_all=False)
            if added.pre_mlp_adapter is not None:
                break
            prompts = self._mlp(prompts)
            assert prompts.block == number + 1
        return prompts

    def finish(self, prompts: Prompts, *, keep_all: bool = False) -> Prompts:
        """Run the blocks that are left; with `keep_all`, for every token and not just the pooled one."""
        while prompts.block < len(self.blocks):
            if not prompts.attended:
                prompts = self._attend(prompts, keep_all)
            prompts = self._mlp(prompts)
        return prompts

    def pool(self, prompts: Prompts) -> Tensor:
        """The embeddings of prompts that went through all blocks. -> (B, E), not normalised"""
        x = self.tower.ln_final(_take(prompts.hidden, prompts.end))
        projection = self.tower.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    def _attend(self, prompts: Prompts, keep_all: bool) -> Prompts:
        block = self.blocks[prompts.block]
        x = cast(TextBlock, self.added[prompts.block]).pre_attn(prompts.hidden)
        is_last = prompts.block == len(self.blocks) - 1
        if is_last and not keep_all and block.is_standard:
            pooled = _take(x, prompts.end)[:, None]
            attended = _attend_at_end(block, block.norm_attention(x), prompts.end)
            x = pooled + block.scale_attention(attended)
            return Prompts(x, torch.zeros_like(prompts.end), prompts.block, True)
        x = x + block.scale_attention(self._self_attend(block, block.norm_attention(x)))
        return Prompts(x, prompts.end, prompts.block, True)

    def _self_attend(self, block: OpenClipBlock, x: Tensor) -> Tensor:
        length = x.shape[1]
        return block.self_attend(x, self.tower.attn_mask[:length, :length])

    def _mlp(self, prompts: Prompts) -> Prompts:
        x = cast(TextBlock, self.added[prompts.block]).pre_mlp(prompts.hidden)
        x = x + self.blocks[prompts.block].mlp(x)
        return Prompts(x, prompts.end, prompts.block + 1, False)


class TraceableTextTower(nn.Module):
    """A causal text tower as a module that holds its weights alone, in one graph for texts of any length."""

    def __init__(self, text: TextTower) -> None:
        super().__init__()
        tower = text.tower
        self.added = text.added
        self.token_embedding, self.transformer = tower.token_embedding, tower.transformer
        self.ln_final, self.text_projection = tower.ln_final, tower.text_projection
        self.positional_embedding = tower.positional_embedding

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, L) int64 -> (B, E), not normalised; L need only hold the longest text."""
        tower = _BatchFirstTextTower(self._at_length(tokens), self.added)
        return tower.pool(tower.finish(tower.start(tokens)))

    def _at_length(self, tokens: Tensor) -> SimpleNamespace:
        """The tower cut to the length of `tokens`; slicing would tie the graph to lengths below the whole."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return SimpleNamespace(
            token_embedding=self.token_embedding,
            transformer=self.transformer,
            ln_final=self.ln_final,
            text_projection=self.text_projection,
            positional_embedding=self.positional_embedding[positions],
            attn_mask=positions <= positions[:, None],  # (L, L), true where a token may look
            text_pool_type="argmax",
        )


class _BatchFirstTextTower(TextTower):
    """TextTower with attention on batch-first tensors, and a mask that is true where a token may look.

    nn.MultiheadAttention turns tensors first, which ONNX Runtime 1.31 does not survive in float16.
    """

    def _self_attend(self, block: OpenClipBlock, x: Tensor) -> Tensor:
        return cross_attend(block, x, x, mask=self.tower.attn_mask)


def layer_number(name: str) -> int | None:
    """The block that a parameter of a text tower belongs to, by its name: -1 below all, None above them."""
    return find_layer(name, {TextTower.LAYERS: TextTower.BELOW})


def _take(x: Tensor, positions: Tensor) -> Tensor:
    """One token of each row. x (B, L, D), positions (B,) -> (B, D)"""
    return x[torch.arange(x.shape[0], device=x.device), positions]


def _attend_at_end(block: OpenClipBlock, x: Tensor, end: Tensor) -> Tensor:
    """Self-attention of the tokens at `end` to those up to it. x (B, L, D), end (B,) -> (B, 1, D)"""
    seen = torch.arange(x.shape[1], device=x.device) <= end[:, None]  # (B, L)
    return cross_attend(block, _take(x, end)[:, None], x, mask=seen[:, None, None])
