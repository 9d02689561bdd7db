from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vactk.text.words import IGNORED, PromptMasker, build_vocabulary, num_to_mask

START, END, MASK_ID = 998, 999, 500


def encode(word):
    """One id a letter, and one for the mask."""
    return [MASK_ID] if word == "mask" else [ord(letter) % 400 + 1 for letter in word]


def masker(vocabulary, context_length=30, rate=0.2):
    return PromptMasker(vocabulary, encode, start=START, end=END, context_length=context_length, rate=rate)


words = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=6)


@given(words, st.floats(0.05, 1.0), st.integers(0, 99))
def test_masked_words_are_hidden_labelled_and_counted(text, rate, seed):
    torch.manual_seed(seed)
    vocabulary = build_vocabulary([" ".join(text)])
    masked = masker(vocabulary, rate=rate).mask(" ".join(text))
    count = num_to_mask(len(text), rate)
    assert masked.num_masked == count
    assert int((masked.labels != IGNORED).sum()) == count
    assert int((masked.tokens == MASK_ID).sum()) == count
    assert ((masked.labels != IGNORED) == (masked.tokens == MASK_ID)).all()
    assert masked.tokens[0] == START
    assert int(masked.tokens.max()) == END
    assert masked.unknown == ()


def test_words_that_the_vocabulary_lacks_are_reported_and_not_trained():
    masked = masker(("video",)).mask("video zebra", order=[1, 0])
    assert masked.unknown == ("zebra",)
    assert (masked.labels == IGNORED).all()


def test_prompts_that_are_too_long_are_cut_before_their_end():
    masked = masker(("abc",), context_length=6).mask("abc abc abc", order=[2, 0, 1])
    assert masked.tokens.tolist()[0] == START
    assert masked.tokens.tolist()[-1] == END
    assert (masked.labels == IGNORED).all()  # the masked word was cut off


def test_a_prompt_without_words_masks_nothing():
    masked = masker(("a",)).mask("  ")
    assert masked.num_masked == 0
    assert masked.tokens[:2].tolist() == [START, END]


@pytest.mark.parametrize(
    ("num_words", "rate", "count"), [(5, 0.2, 1), (7, 0.5, 4), (5, 0.5, 2), (1, 0.2, 1), (0, 0.2, 0)]
)
def test_numbers_of_masked_words_as_published(num_words, rate, count):
    assert num_to_mask(num_words, rate) == count
