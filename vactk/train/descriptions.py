"""Descriptions of the training videos, which their embeddings are aligned with (Open-VCLIP++, section 4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vactk.models.text_tower import TextTower


class Described(NamedTuple):
    """The descriptions of a batch."""

    text: Tensor  # (B, E), unit norm; zeros where a video has none
    known: Tensor  # (B,) bool: whether the video has one


class DescriptionTexts(nn.Module):
    """One description of each video; a random number chooses among several.

    That number comes with the video, so that it depends neither on the process nor on the pass (interpolated
    weight optimisation makes two). With a frozen text tower, descriptions are embedded once for the whole run.
    """

    def __init__(self, tokens: Tensor, counts: Tensor, *, frozen: bool, batch_size: int = 256) -> None:
        """tokens (N, L) int64: all descriptions, ordered by video; counts (V,) int64: how many each video has."""
        super().__init__()
        self.frozen = frozen
        self.batch_size = batch_size
        self.embeddings: Tensor | None
        self.tokens: Tensor
        self.counts: Tensor
        self.starts: Tensor
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)
        self.register_buffer("embeddings", None, persistent=False)

    def forward(self, text: TextTower, places: Tensor, draws: Tensor) -> Described:
        """Return the descriptions of the videos at places (B,) int64, chosen by draws (B,) in [0, 1)."""
        counts = self.counts[places]
        drawn = (draws * counts).long().clamp(max=counts - 1)  # a draw just below 1 may round up
        # A video without one borrows another's, zeroed below: all processes do the same work on each batch.
        chosen = (self.starts[places] + drawn).clamp(min=0)
        if self.frozen:
            if self.embeddings is None:
                self.embeddings = self._embed_all(text)
            found = self.embeddings[chosen]
        else:
            found = F.normalize(text.encode(text.trim(self.tokens[chosen])), dim=-1)
        known = counts > 0
        return Described(torch.where(known[:, None], found, 0), known)

    @torch.no_grad()
    def _embed_all(self, text: TextTower) -> Tensor:
        embedded = [text.encode(text.trim(tokens)) for tokens in self.tokens.split(self.batch_size)]
        return F.normalize(torch.cat(embedded).float(), dim=-1)
