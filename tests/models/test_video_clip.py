from __future__ import annotations

import pytest
import torch
from torch import nn

from vactk.models.temporal.adapters import NoTemporal, STAdapterConfig, TEDAdapterConfig
from vactk.models.temporal.block import TemporalBlock
from vactk.models.temporal.registry import TEMPORAL
from vactk.models.video_clip import VideoCLIP
from vactk.models.vision_tower import residual_block

ADAPTERS = ["st_adapter", "ted_adapter"]
ADDED = ["none", *ADAPTERS]  # the identity at first; attention over frames is not


def build(clip, config):
    grid = tuple(clip.visual.grid_size)
    blocks = clip.visual.transformer.resblocks
    return VideoCLIP(clip, config.build(clip.visual.transformer.width, grid, len(blocks))).eval()


def perturb(module: nn.Module) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


@pytest.mark.parametrize("name", ADDED)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_new_model_equals_stock_open_clip(tiny_clip, name, mode):
    """In double precision, where nothing but rounding of 1e-16 may differ."""
    video = torch.randn(2, 5, 3, 32, 32, dtype=torch.float64)
    model = build(tiny_clip, TEMPORAL[name]()).double().train(mode == "train")
    with torch.set_grad_enabled(mode == "train"):
        expected = tiny_clip.double().encode_image(video.flatten(0, 1)).unflatten(0, (2, 5))
        torch.testing.assert_close(model.video_features(video).frames, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ADAPTERS)
def test_new_adapters_change_nothing_to_the_last_bit(tiny_clip, name):
    video = torch.randn(2, 5, 3, 32, 32)
    plain, model = build(tiny_clip, NoTemporal()), build(tiny_clip, TEMPORAL[name]())
    assert torch.equal(model.video_features(video).frames, plain.video_features(video).frames)
    assert torch.equal(model.video_features(video).pooled, plain.video_features(video).pooled)


@pytest.mark.parametrize("name", TEMPORAL)
def test_only_the_class_token_of_the_last_block_is_read(tiny_clip, name):
    """The same model, with every token of the last block computed."""
    video = torch.randn(2, 5, 3, 32, 32)
    model = build(tiny_clip, TEMPORAL[name]())
    perturb(model.temporal)
    visual = tiny_clip.visual
    x = visual._embeds(video.flatten(0, 1))
    for block, added in zip(model.vision.blocks, model.temporal, strict=True):
        x = residual_block(block, added, x, 5, x.shape[1])
        assert x.shape[1] == 17
    expected = (visual._pool(x)[0] @ visual.proj).unflatten(0, (2, 5))
    torch.testing.assert_close(model.video_features(video).frames, expected)


def test_unread_parameters_get_no_gradient_and_all_others_do(tiny_clip):
    model = build(tiny_clip, TEDAdapterConfig(placement="both"))
    perturb(model.temporal)
    model.encode_video(torch.randn(2, 5, 3, 32, 32)).square().sum().backward()
    unread = {id(parameter) for parameter in model.unused_parameters()}
    assert len(unread) == 6
    for parameter in model.temporal.parameters():
        assert (parameter.grad is None) == (id(parameter) in unread)


def test_text_equals_stock_open_clip(tiny_clip):
    tokens = torch.randint(1, 59, (4, 16))
    assert torch.equal(build(tiny_clip, NoTemporal()).encode_text(tokens), tiny_clip.encode_text(tokens))


def test_parameter_names_of_clip_are_left_alone(tiny_clip):
    names = set(tiny_clip.state_dict())
    model = build(tiny_clip, TEDAdapterConfig())
    assert {
        name.removeprefix("backbone.") for name in model.state_dict() if name.startswith("backbone.")
    } == names


@pytest.mark.parametrize("name", TEMPORAL)
@pytest.mark.parametrize("num_frames", [1, 2, 9])
def test_any_number_of_frames(tiny_clip, name, num_frames):
    model = build(tiny_clip, TEMPORAL[name]())
    perturb(model.temporal)
    with torch.no_grad():
        video = torch.randn(3, num_frames, 3, 32, 32)
        together = model.encode_video(video)
        apart = torch.cat([model.encode_video(one[None]) for one in video])
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("name", ADAPTERS)
def test_trained_modules_see_the_order_of_frames_and_plain_clip_does_not(tiny_clip, name):
    video = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        plain = build(tiny_clip, NoTemporal())
        torch.testing.assert_close(plain.encode_video(video), plain.encode_video(video.flip(1)))
        model = build(tiny_clip, TEMPORAL[name]())
        perturb(model.temporal)
        assert (model.encode_video(video) - model.encode_video(video.flip(1))).abs().max() > 1e-3


@pytest.mark.parametrize("name", TEMPORAL)
def test_gradient_checkpointing_changes_no_gradient(tiny_clip, name):
    video = torch.randn(2, 3, 3, 32, 32)
    model = build(tiny_clip, TEMPORAL[name]()).train()
    perturb(model.temporal)
    gradients = []
    for checkpointing in (False, True):
        model.gradient_checkpointing = checkpointing
        model.zero_grad()
        model.encode_video(video).square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient)


def test_pooled_features_are_the_normed_mean_class_token(tiny_clip):
    video = torch.randn(2, 4, 3, 32, 32)
    visual = tiny_clip.visual
    with torch.no_grad():
        tokens = visual.transformer(visual._embeds(video.flatten(0, 1)))
        expected = visual.ln_post(tokens[:, 0].reshape(2, 4, -1).mean(1))
        torch.testing.assert_close(build(tiny_clip, NoTemporal()).video_features(video).pooled, expected)


def test_every_hook_of_the_seam_is_called_once_a_block_and_in_order(tiny_clip):
    calls = []

    class Spy(TemporalBlock):
        def pre_attn(self, x, num_frames):
            calls.append(("pre_attn", num_frames))
            return x

        def attention(self, block, x, num_frames, num_queries):
            calls.append(("attention", num_frames))
            return super().attention(block, x, num_frames, num_queries)

        def pre_mlp(self, x, num_frames):
            calls.append(("pre_mlp", num_frames))
            return x

    model = VideoCLIP(tiny_clip, nn.ModuleList(Spy() for _ in range(3)))
    model.encode_video(torch.randn(1, 2, 3, 32, 32))
    assert calls == [("pre_attn", 2), ("attention", 2), ("pre_mlp", 2)] * 3


def test_adapters_can_be_placed_in_some_blocks(tiny_clip):
    model = build(tiny_clip, STAdapterConfig(layers=(0, -1), width=4))
    assert [type(block) is not TemporalBlock for block in model.temporal] == [True, False, True]
