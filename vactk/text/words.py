"""The word vocabulary of class prompts, and prompts with words masked, for masked-language modelling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100  # label of tokens that are not predicted; the default ignore_index of torch's cross_entropy
MASK = "mask"  # replaces a masked word: the literal word, as in M2-CLIP's published code


def build_vocabulary(prompts: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct words of all prompts, sorted: split at spaces, lower case, punctuation kept."""
    return tuple(sorted({word for prompt in prompts for word in prompt.lower().split()}))


@dataclass(frozen=True)
class Masked:
    """A prompt with some words masked."""

    tokens: Tensor  # (L,) int64, zeros after the end
    labels: Tensor  # (L,) int64: index of the word in the vocabulary at each of its tokens, else IGNORED
    num_masked: int  # number of masked words
    unknown: tuple[str, ...]  # masked words missing from the vocabulary, labelled IGNORED


def num_to_mask(num_words: int, rate: float) -> int:
    """Return max(1, round(rate * num_words)), halves to even (M2-CLIP, section 3.3)."""
    return min(num_words, max(1, round(rate * num_words)))


class PromptMasker:
    """Masks words of prompts and labels them. `encode` returns the BPE ids of one word, without start and end."""

    def __init__(
        self,
        vocabulary: Sequence[str],
        encode: Callable[[str], list[int]],
        *,
        start: int,
        end: int,
        context_length: int,
        rate: float = 0.2,
    ) -> None:
        self.indices = {word: position for position, word in enumerate(vocabulary)}
        self.encode = encode
        self.start = start
        self.end = end
        self.context_length = context_length
        self.rate = rate

    def mask(
        self, prompt: str, order: Sequence[int] | None = None, generator: torch.Generator | None = None
    ) -> Masked:
        """Mask the first words of `order`, by default a random order from `generator`.

        Each word is encoded on its own; words beyond the context length are dropped.
        """
        words = prompt.lower().split()
        if order is None:
            order = torch.randperm(len(words), generator=generator).tolist()
        chosen = set(order[: num_to_mask(len(words), self.rate)]) if words else set()
        tokens, labels = [self.start], [IGNORED]
        for position, word in enumerate(words):
            ids = self.encode(MASK if position in chosen else word)
            tokens += ids
            labels += [self.indices.get(word, IGNORED) if position in chosen else IGNORED] * len(ids)
        limit = self.context_length - 1
        tokens, labels = [*tokens[:limit], self.end], [*labels[:limit], IGNORED]
        padding = self.context_length - len(tokens)
        return Masked(
            torch.tensor(tokens + [0] * padding),
            torch.tensor(labels + [IGNORED] * padding),
            len(chosen),
            tuple(words[position] for position in sorted(chosen) if words[position] not in self.indices),
        )
