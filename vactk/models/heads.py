"""Class head and masked-word head on the features of a video (M2-CLIP, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vactk.models.attention import OpenClipBlock
from vactk.models.text_tower import TextBlock, TextTower


class ClassHead(nn.Module):
    """fc(dropout(features)): visual classification."""

    def __init__(self, dim: int, num_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.dropout = dropout
        self.fc = nn.Linear(dim, num_classes)
        nn.init.normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def forward(self, pooled: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """pooled (B, D), from `VideoFeatures` -> logits (B, C); `seeds` as `video_dropout` takes them"""
        if not self.training or not self.dropout:
            return self.fc(pooled)
        if seeds is None:
            return self.fc(F.dropout(pooled, self.dropout))
        return self.fc(video_dropout(pooled, self.dropout, seeds))


def video_dropout(x: Tensor, rate: float, seeds: Sequence[int]) -> Tensor:
    """Dropout that is drawn for each video by its own seed. x (B, D), B seeds -> (B, D)

    A video loses the same features whichever process it is on and whatever else is in its batch.
    """
    drawn = [torch.rand(x.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return x * (torch.stack(drawn).to(x.device) >= rate) / (1 - rate) if drawn else x


class MaskedWordHead(nn.Module):
    """Cross-modal masked-language modelling: words of a prompt guessed from the video's frames.

    A copy of the text tower's last block attends from the prompt's tokens to the frames, with the same norm on
    both and no mask; then dense, gelu, norm and a linear layer over the words. The copied block is not kept:
    it is frozen, so the tower's own serves. Frames are projected first where the widths differ.
    """

    def __init__(self, dim: int, embed_dim: int, num_words: int, adapters: TextBlock) -> None:
        super().__init__()
        self.project = nn.Identity() if embed_dim == dim else nn.Linear(embed_dim, dim)
        self.adapters = adapters
        self.dense = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.decoder = nn.Linear(dim, num_words)
        for layer in (self.dense, self.decoder):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def cross_hidden(self, block: OpenClipBlock, hidden: Tensor, frames: Tensor) -> Tensor:
        """Cross-attend from prompt tokens to frame embeddings: (B, L, D), (B, T, E) -> (B, L, D).

        `block` is the text tower's last residual block, `hidden` its residual stream before the final norm.
        """
        x = self.adapters.pre_attn(hidden)
        seen = block.norm_attention(self.project(frames))
        x = x + block.scale_attention(block.attend_to(block.norm_attention(x), seen))
        x = self.adapters.pre_mlp(x)
        return x + block.mlp(x)

    def forward(self, text: TextTower, hidden: Tensor, frames: Tensor) -> Tensor:
        """Logits over the words, (B, L, V); `text` gives the last block and the final norm."""
        x = self.cross_hidden(text.blocks[-1], hidden, frames)
        return self.decoder(self.norm(F.gelu(self.dense(text.final_norm(x)))))
