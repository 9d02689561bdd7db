from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vactk.errors import VactkError
from vactk.models.temporal.adapters import STAdapter, STAdapterConfig, TEDAdapter, TEDAdapterConfig, TimeConv


def perturb(module):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))


def over_time(x, num_frames, weight, bias):
    """A depthwise convolution over frames, written as a loop over videos, tokens and frames."""
    videos = x.reshape(-1, num_frames, *x.shape[1:])
    out = torch.zeros_like(videos)
    half = weight.shape[-1] // 2
    for t in range(num_frames):
        for k in range(weight.shape[-1]):
            if 0 <= t + k - half < num_frames:
                out[:, t] += videos[:, t + k - half] * weight[:, 0, k]
    return (out + bias).reshape(x.shape)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("num_frames", [1, 2, 6])
def test_time_conv_is_a_depthwise_convolution_of_torch(kernel_size, num_frames):
    conv = TimeConv(5, kernel_size)
    x = torch.randn(2 * num_frames, 7, 5)
    per_token = x.reshape(2, num_frames, 7, 5).permute(0, 2, 3, 1).reshape(14, 5, num_frames)
    expected = F.conv1d(per_token, conv.weight, conv.bias, padding=kernel_size // 2, groups=5)
    expected = expected.reshape(2, 7, 5, num_frames).permute(0, 3, 1, 2).reshape(x.shape)
    torch.testing.assert_close(conv(x, num_frames), expected)


@pytest.mark.parametrize("num_frames", [1, 3, 8])
def test_ted_adapter_against_the_formula_in_loops(num_frames):
    adapter = TEDAdapter(12, 6, (3, 2))
    perturb(adapter)
    x = torch.randn(2 * num_frames, 7, 12)
    enhanced = over_time(adapter.down(x), num_frames, adapter.conv.weight, adapter.conv.bias)
    expected = x + adapter.up(enhanced)
    for video in range(2):
        for t in range(num_frames):
            row = video * num_frames + t
            before = row - 1 if t > 0 else row
            change = adapter.diff_down(x[row, 1:] - x[before, 1:])  # (6 patches, 6 channels)
            image = F.pad(change.reshape(3, 2, 6), (0, 0, 1, 1, 1, 1))
            spread = adapter.diff_conv.bias.repeat(3, 2, 1)
            for i in range(3):
                for j in range(3):
                    spread = spread + image[i : i + 3, j : j + 2] * adapter.diff_conv.weight[:, 0, i, j]
            expected[row, 1:] += adapter.diff_up(spread.reshape(6, 6))
    torch.testing.assert_close(adapter(x, num_frames), expected)


def test_st_adapter_against_the_formula_in_loops():
    adapter = STAdapter(12, 6)
    perturb(adapter)
    x = torch.randn(2 * 4, 7, 12)
    patches = over_time(adapter.down(x[:, 1:]), 4, adapter.conv.weight, adapter.conv.bias)
    expected = torch.cat([x[:, :1], x[:, 1:] + adapter.up(patches)], dim=1)
    torch.testing.assert_close(adapter(x, 4), expected)


@pytest.mark.parametrize("adapter", [STAdapter(12, 6), TEDAdapter(12, 6, (3, 2))])
def test_a_new_adapter_is_the_identity_and_can_learn(adapter):
    x = torch.randn(8, 7, 12)
    torch.testing.assert_close(adapter(x, 4), x, rtol=0, atol=0)
    adapter(x, 4).square().sum().backward()
    assert any(p.grad.abs().max() > 0 for p in adapter.parameters())


def test_ted_adapter_refuses_a_grid_that_is_not_full():
    with pytest.raises(ValueError, match="7 tokens for a grid of 3x3"):
        TEDAdapter(12, 6, (3, 3))(torch.randn(4, 7, 12), 2)


@pytest.mark.parametrize("placement", ["pre_mlp", "pre_attn", "both"])
def test_placement_and_width_take_effect(placement):
    blocks = TEDAdapterConfig(placement=placement, width=6, kernel_size=5).build(12, (3, 2), 4)
    for block in blocks:
        assert (block.pre_attn_adapter is not None) == (placement in ("pre_attn", "both"))
        assert (block.pre_mlp_adapter is not None) == (placement in ("pre_mlp", "both"))
    adapter = blocks[0].pre_mlp_adapter or blocks[0].pre_attn_adapter
    assert adapter.down.out_features == 6
    assert adapter.conv.weight.shape == (6, 1, 5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (STAdapterConfig(layers=(4,)), "no block 4: the vision tower has 4 blocks"),
        (TEDAdapterConfig(layers=(-5,)), "no block -5"),
        (TEDAdapterConfig(width=-1), "width of at least 0"),
        (STAdapterConfig(kernel_size=2), "odd kernel_size"),
    ],
)
def test_adapters_that_cannot_be_built_are_refused(config, message):
    with pytest.raises(VactkError, match=message):
        config.build(12, (3, 2), 4)
