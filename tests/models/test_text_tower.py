from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vactk.errors import VactkError
from vactk.models.text_tower import TextAdapter, TextAdapterConfig, TextTower

END = 59  # the largest token ends a prompt


def prompts():
    tokens = torch.zeros(3, 16, dtype=torch.long)
    for row, length in enumerate((4, 9, 6)):
        tokens[row, :length] = torch.randint(1, END, (length,))
        tokens[row, length] = END
    return tokens


def tower(clip, **settings):
    added = TextAdapterConfig(width=6, **settings).build(32, 2)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in added.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return TextTower(clip, added)


def naive(clip, added, tokens):
    """The whole tower at full length, adapters written out."""
    x = clip.token_embedding(tokens) + clip.positional_embedding

    def adapt(adapter, x):
        return x if adapter is None else x + adapter.fc2(F.gelu(adapter.fc1(x)))

    for block, extra in zip(clip.transformer.resblocks, added, strict=True):
        x = adapt(extra.pre_attn_adapter, x)
        x = x + block.attention(block.ln_1(x), attn_mask=clip.attn_mask)
        x = adapt(extra.pre_mlp_adapter, x)
        x = x + block.mlp(block.ln_2(x))
    return x, clip.ln_final(x)[torch.arange(3), tokens.argmax(1)] @ clip.text_projection


def test_without_adapters_it_is_open_clips_own_pass(tiny_clip):
    tokens = prompts()
    plain = tower(tiny_clip, layers=0)
    assert torch.equal(plain.encode(tokens), tiny_clip.encode_text(tokens))
    torch.testing.assert_close(plain.encode(plain.trim(tokens)), tiny_clip.encode_text(tokens))


def test_prompts_are_cut_at_the_longest(tiny_clip):
    assert tower(tiny_clip, layers=0).trim(prompts()).shape == (3, 10)


@pytest.mark.parametrize("placement", ["pre_mlp", "pre_attn", "both"])
@pytest.mark.parametrize("layers", [1, 2, -1])
def test_the_short_way_gives_the_results_and_gradients_of_the_long_one(tiny_clip, placement, layers):
    tiny_clip.requires_grad_(False)
    text = tower(tiny_clip, layers=layers, placement=placement)
    tokens = prompts()
    hidden, expected = naive(tiny_clip, text.added, tokens)
    cut = text.trim(tokens)
    torch.testing.assert_close(text.encode(cut), expected)
    torch.testing.assert_close(text.hidden(cut).hidden, hidden[:, :10])
    kept = text.frozen_part(cut)
    torch.testing.assert_close(text.pool(text.finish(kept)), expected)

    parameters = list(text.added.parameters())
    cotangent = torch.randn_like(expected)
    long = torch.autograd.grad((expected * cotangent).sum(), parameters)
    short = torch.autograd.grad((text.pool(text.finish(kept)) * cotangent).sum(), parameters)
    for one, other in zip(long, short, strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_frozen_is_left_out_as_far_as_can_be(tiny_clip):
    kept = tower(tiny_clip, layers=1).frozen_part(prompts())
    assert (kept.block, kept.attended) == (1, True)
    assert kept.hidden.shape == (3, 1, 32)  # of the last block, the pooled token alone
    kept = tower(tiny_clip, layers=1, placement="pre_attn").frozen_part(prompts())
    assert (kept.block, kept.attended) == (1, False)
    assert tower(tiny_clip, layers=-1, placement="pre_attn").frozen_part(prompts()).block == 0


def test_a_new_text_adapter_is_the_identity_unless_asked_otherwise():
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(TextAdapter(8, 4)(x), x, rtol=0, atol=0)
    assert not torch.equal(TextAdapter(8, 4, identity=False)(x), x)


@pytest.mark.parametrize("settings", [{"layers": 3}, {"layers": -2}, {"width": -1}])
def test_adapters_that_cannot_be_built_are_refused(settings):
    with pytest.raises(VactkError, match="text adapters need layers from 0 to 2, or -1"):
        TextAdapterConfig(**settings).build(32, 2)


def test_towers_that_read_otherwise_cannot_carry_adapters(tiny_clip):
    tiny_clip.text_pool_type = "last"
    with pytest.raises(VactkError, match="causal text tower with end-of-text pooling, not 'last'"):
        tower(tiny_clip, layers=1)
    assert not TextTower(tiny_clip, nn.ModuleList()).is_causal
