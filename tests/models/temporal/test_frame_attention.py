from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import vactk.torchvision_ops  # noqa: F401
from vactk.errors import VactkError
from vactk.models.attention import OpenClipBlock
from vactk.models.temporal.adapters import NoTemporal
from vactk.models.temporal.block import TemporalBlock
from vactk.models.temporal.frame_attention import (
    CrossFrameAttention,
    CrossFrameAttentionConfig,
    NeighbourAttention,
    NeighbourAttentionConfig,
)
from vactk.models.video_clip import VideoCLIP
from vactk.models.vision_tower import residual_block

# isort: split
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock

DIM, HEADS, TOKENS = 24, 3, 5
CUSTOM = {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_attn": True}


def make_block(custom=None):
    torch.manual_seed(2)
    block = (
        ResidualAttentionBlock(DIM, HEADS)
        if custom is None
        else CustomResidualAttentionBlock(DIM, HEADS, **custom)
    )
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter) + (parameter.ndim == 1) * 0.3)
    return block.eval()


def slowly(block, x, num_frames, window, *, zeros):
    """The formula, one frame and one head at a time; open_clip's custom parts where it has them."""
    attn, width = block.attn, DIM // HEADS
    nothing = torch.nn.Identity()
    weights = attn.in_proj_weight.reshape(3, HEADS, width, DIM)
    biases = attn.in_proj_bias.reshape(3, HEADS, width)
    rows = []
    for row in range(len(x)):
        video, t = divmod(row, num_frames)
        heads = []
        for head in range(HEADS):

            def project(which, frame, head=head):
                return x[frame] @ weights[which, head].T + biases[which, head]

            query = getattr(attn, "ln_q", nothing)(project(0, row)) / math.sqrt(width)
            logits, values = [], []
            for near in range(t - window, t + window + 1):
                frame = video * num_frames + near
                if 0 <= near < num_frames:
                    logits.append(query @ getattr(attn, "ln_k", nothing)(project(1, frame)).T)
                    values.append(project(2, frame))
                elif zeros:
                    logits.append(x.new_zeros(TOKENS, TOKENS))
                    values.append(x.new_zeros(TOKENS, width))
            mass = torch.cat(logits, dim=1).exp()
            found = mass @ torch.cat(values) / mass.sum(dim=1, keepdim=True)
            scale = getattr(attn, "head_scale", None)
            heads.append(found if scale is None else found * scale[head, 0, 0])
        joined = getattr(attn, "ln_inner", nothing)(torch.cat(heads, dim=1))
        rows.append(getattr(block, "ln_attn", nothing)(attn.out_proj(joined)))
    return torch.stack(rows)


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 8])
def test_attention_is_the_formula_for_any_number_of_frames(num_frames, window, zeros):
    block = make_block()
    x = torch.randn(2 * num_frames, TOKENS, DIM)
    module = NeighbourAttention(window, zeros=zeros)
    with torch.no_grad():
        expected = slowly(block, x, num_frames, window, zeros=zeros)
        torch.testing.assert_close(module.attention(OpenClipBlock(block), x, num_frames, TOKENS), expected)
        for queries in (1, 3):
            some = module.attention(OpenClipBlock(block), x, num_frames, num_queries=queries)
            torch.testing.assert_close(some, expected[:, :queries])


@pytest.mark.parametrize("parts", [{}, *({name: True} for name in CUSTOM), CUSTOM])
@pytest.mark.parametrize("zeros", [True, False])
def test_open_clips_custom_blocks(parts, zeros):
    block = make_block(parts)
    x = torch.randn(2 * 3, TOKENS, DIM)
    with torch.no_grad():
        found = NeighbourAttention(1, zeros=zeros).attention(OpenClipBlock(block), x, 3, TOKENS)
        torch.testing.assert_close(found, slowly(block, x, 3, 1, zeros=zeros))


def test_scaled_cosine_attention_is_refused():
    block = make_block({"scale_cosine_attn": True})
    with pytest.raises(VactkError, match="scaled cosine attention; choose another --backbone"):
        NeighbourAttention().attention(OpenClipBlock(block), torch.randn(2, TOKENS, DIM), 2, TOKENS)


@pytest.mark.parametrize("custom", [None, CUSTOM])
def test_a_single_frame_with_masked_ends_is_open_clips_attention(custom):
    block = make_block(custom)
    x = torch.randn(4, TOKENS, DIM)
    expected = TemporalBlock().attention(OpenClipBlock(block), x, 1, TOKENS)
    torch.testing.assert_close(
        NeighbourAttention(2, zeros=False).attention(OpenClipBlock(block), x, 1, TOKENS), expected
    )


def test_frames_that_are_all_alike_see_nothing_new_when_ends_are_masked():
    block = make_block()
    x = torch.randn(1, TOKENS, DIM).expand(6, -1, -1)
    expected = TemporalBlock().attention(OpenClipBlock(block), x, 6, TOKENS)
    torch.testing.assert_close(
        NeighbourAttention(2, zeros=False).attention(OpenClipBlock(block), x, 6, TOKENS), expected
    )
    ends = NeighbourAttention(2).attention(OpenClipBlock(block), x, 6, TOKENS)
    torch.testing.assert_close(ends[2:4], expected[2:4])
    assert (ends[0] - expected[0]).abs().max() > 1e-3


@pytest.mark.parametrize("window", [1, 2])
def test_a_frame_sees_its_neighbours_and_nothing_further(window):
    block = make_block()
    x = torch.randn(7, TOKENS, DIM, requires_grad=True)
    NeighbourAttention(window).attention(OpenClipBlock(block), x, 7, TOKENS)[3].sum().backward()
    seen = [i for i, frame in enumerate(x.grad) if frame.abs().max() > 0]
    assert seen == list(range(3 - window, 3 + window + 1))


def test_gradients_are_the_formulas():
    block = make_block().double()
    x = torch.randn(2 * 4, TOKENS, DIM, dtype=torch.float64)
    gradients = []
    for call in (
        lambda: NeighbourAttention(1).attention(OpenClipBlock(block), x, 4, TOKENS),
        lambda: slowly(block, x, 4, 1, zeros=True),
    ):
        block.zero_grad()
        call().square().sum().backward()
        gradients.append([p.grad.clone() for p in block.attn.parameters()])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_half_precision_runs_and_agrees_roughly():
    block = make_block()
    x = torch.randn(6, TOKENS, DIM)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = NeighbourAttention(1).attention(OpenClipBlock(block), x, 3, TOKENS)
    torch.testing.assert_close(found.float(), slowly(block, x, 3, 1, zeros=True), rtol=0.1, atol=0.1)


def test_a_model_gains_no_parameters_and_shuffled_frames_change_it(tiny_clip):
    blocks = NeighbourAttentionConfig().build(32, (4, 4), 3)
    assert not list(blocks.parameters())
    model = VideoCLIP(tiny_clip, blocks).eval()
    plain = VideoCLIP(tiny_clip, NoTemporal().build(32, (4, 4), 3)).eval()
    video = torch.randn(1, 4, 3, 32, 32)
    shuffled = video[:, [2, 0, 3, 1]]
    with torch.no_grad():
        torch.testing.assert_close(plain.encode_video(video), plain.encode_video(shuffled))
        assert (model.encode_video(video) - model.encode_video(shuffled)).abs().max() > 1e-3


def test_layers_that_attend_to_neighbours():
    kinds = [type(b) for b in NeighbourAttentionConfig(layers=(0, -1), window=2).build(32, (4, 4), 3)]
    assert kinds == [NeighbourAttention, TemporalBlock, NeighbourAttention]
    kinds = [type(b) for b in CrossFrameAttentionConfig(layers=(1,)).build(32, (4, 4), 3)]
    assert kinds == [TemporalBlock, CrossFrameAttention, TemporalBlock]


def test_cross_frame_messages_against_the_formula():
    block, module = make_block(), CrossFrameAttention(DIM, HEADS).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
        x = torch.randn(2 * 3, TOKENS, DIM)
        expected = []
        for frames in x.unflatten(0, (2, 3)):  # a video at a time
            message = module.message_fc(frames[:, 0])  # (T, D)
            attn = module.message_attn
            q, k, v = F.linear(module.message_ln(message), attn.in_proj_weight, attn.in_proj_bias).chunk(
                3, -1
            )
            heads = [
                (a @ b.T / math.sqrt(DIM // HEADS)).softmax(-1) @ c
                for a, b, c in zip(*(y.chunk(HEADS, -1) for y in (q, k, v)), strict=True)
            ]
            message = message + attn.out_proj(torch.cat(heads, -1))
            longer = torch.cat([frames, message[:, None]], dim=1)
            longer = longer + block.attention(block.ln_1(longer))
            frames = longer[:, :TOKENS]
            expected.append(frames + block.mlp(block.ln_2(frames)))
        torch.testing.assert_close(
            residual_block(OpenClipBlock(block), module, x, 3, TOKENS), torch.cat(expected)
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NeighbourAttentionConfig(window=0), "must be 1, 2 or 3 frames, got 0"),
        (lambda: NeighbourAttentionConfig(window=4), "must be 1, 2 or 3 frames, got 4"),
        (lambda: NeighbourAttentionConfig(layers=(3,)).build(32, (4, 4), 3), "no block 3"),
        (lambda: CrossFrameAttentionConfig(heads=5).build(32, (4, 4), 3), "heads that divide .* 32, got 5"),
        (lambda: CrossFrameAttentionConfig(heads=-1).build(32, (4, 4), 3), "heads that divide .* 32, got -1"),
    ],
)
def test_what_cannot_be_built_is_refused(make, message):
    with pytest.raises(VactkError, match=message):
        make()
