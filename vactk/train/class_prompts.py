"""Prompts of the classes in training, embedded beforehand as far as the text tower is frozen, and masked ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vactk.models.text_tower import Prompts, TextTower
from vactk.text.words import Masked, PromptMasker


class ClassPrompts(nn.Module):
    """Embeddings of all classes: fixed, or computed from where the trained blocks of the text tower begin.

    Fixed embeddings are means over all templates; otherwise each call samples one template.
    """

    def __init__(
        self, *, fixed: Tensor | None = None, tokens: Tensor | None = None, frozen: bool = True
    ) -> None:
        """`fixed` (C, E), unit norm, or `tokens` (templates, C, L) int64; `frozen`: CLIP's text tower is."""
        super().__init__()
        self.frozen = frozen
        self.fixed: Tensor | None
        self.tokens: Tensor | None
        self.hidden: Tensor | None
        self.end: Tensor | None
        self.register_buffer("fixed", fixed, persistent=False)
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("hidden", None, persistent=False)
        self.register_buffer("end", None, persistent=False)
        self.block, self.attended = 0, False

    def forward(self, text: TextTower) -> Tensor:
        """Return the embeddings of the classes by the text tower `text`: (C, E), unit norm."""
        if self.fixed is not None:
            return self.fixed
        assert self.tokens is not None
        template = int(torch.randint(len(self.tokens), ()))
        if not self.frozen:
            return F.normalize(text.encode(self.tokens[template]), dim=-1)
        if self.hidden is None:
            self._prepare(text)
        assert self.hidden is not None
        assert self.end is not None
        prompts = Prompts(self.hidden[template], self.end[template], self.block, self.attended)
        return F.normalize(text.pool(text.finish(prompts)), dim=-1)

    def _prepare(self, text: TextTower) -> None:
        """Compute the activations before the first adapter, once for the whole run."""
        assert self.tokens is not None
        prompts = [text.frozen_part(tokens) for tokens in self.tokens]
        self.hidden = torch.stack([one.hidden for one in prompts])  # (templates, C, L or 1, D)
        self.end = torch.stack([one.end for one in prompts])
        self.block, self.attended = prompts[0].block, prompts[0].attended


class MaskedPrompts:
    """Prompts of a batch's classes with masked words, sampled with a seed per video."""

    def __init__(self, masker: PromptMasker, words: Sequence[str], templates: Sequence[str]) -> None:
        self.masker = masker
        self.prompts = [[template.format(word) for word in words] for template in templates]

    def draw(self, labels: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Mask prompts: labels (B,), B seeds -> tokens (B, L), word labels (B, L) int64; L: the longest one's."""
        masked = [self._mask(label, seed) for label, seed in zip(labels.tolist(), seeds, strict=True)]
        tokens = torch.stack([one.tokens for one in masked])
        longest = int(tokens.argmax(dim=1).max()) + 1
        word_labels = torch.stack([one.labels for one in masked])
        return tokens[:, :longest].to(labels.device), word_labels[:, :longest].to(labels.device)

    def _mask(self, label: int, seed: int) -> Masked:
        generator = torch.Generator().manual_seed(seed)
        template = int(torch.randint(len(self.prompts), (), generator=generator))
        return self.masker.mask(self.prompts[template][label], generator=generator)
