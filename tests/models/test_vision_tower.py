from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.models.conftest import TINY, randomise
from vactk.errors import VactkError
from vactk.models import text_tower
from vactk.models.attention import cross_attend
from vactk.models.temporal.adapters import STAdapterConfig
from vactk.models.temporal.block import TemporalBlock
from vactk.models.temporal.frame_attention import CrossFrameAttention, NeighbourAttention
from vactk.models.text_tower import TextTower, TraceableTextTower
from vactk.models.video_clip import VideoCLIP
from vactk.models.vision_tower import layer_number, residual_block, vision_tower

# isort: split
import open_clip


def variant(**vision):
    clip = open_clip.CLIP(TINY["embed_dim"], {**TINY["vision_cfg"], **vision}, TINY["text_cfg"]).eval()
    randomise(clip)
    return clip


@pytest.mark.parametrize(
    ("vision", "reads_class_token"),
    [
        ({}, True),
        ({"ls_init_value": 0.3}, True),
        ({"pool_type": "avg"}, False),
        ({"final_ln_after_pool": True, "pool_type": "avg"}, False),
        ({"attentional_pool": True, "attn_pooler_heads": 2}, False),
    ],
)
def test_the_steps_of_a_tower_are_open_clips_forward_pass(vision, reads_class_token):
    clip, images = variant(**vision), torch.randn(2, 3, 32, 32)
    tower = vision_tower(clip)
    assert (tower.grid, tower.image_size, tower.width, len(tower.blocks)) == ((4, 4), (32, 32), 32, 3)
    assert tower.reads_class_token is reads_class_token
    with torch.no_grad():
        x = tower.embed(images)
        for block in tower.blocks:
            x = residual_block(block, TemporalBlock(), x, 1, x.shape[1])
        pooled = tower.pool(x)
        torch.testing.assert_close(pooled, clip.encode_image(images))
        assert pooled.shape == (2, tower.embed_dim)
        short = VideoCLIP(clip, nn.ModuleList(TemporalBlock() for _ in range(3))).encode_video(
            images[:, None]
        )
        torch.testing.assert_close(short, pooled)


def test_a_map_of_embeddings_folds_into_the_output(tiny_clip):
    tower, images = vision_tower(tiny_clip), torch.randn(3, 3, 32, 32)
    weight, bias = 0.1 * torch.randn(24, 24), torch.randn(24)
    with torch.no_grad():
        before = tiny_clip.encode_image(images)
        tiny_clip.load_state_dict(tower.fold_into_output(weight, bias), strict=False)
        expected = before + before @ weight.T + bias
        torch.testing.assert_close(tiny_clip.encode_image(images), expected, rtol=1e-4, atol=1e-4)


def test_a_tower_alone_shares_its_weights(tiny_clip):
    alone = vision_tower(tiny_clip).alone()
    assert set(alone.state_dict()) == {name for name in tiny_clip.state_dict() if name.startswith("visual.")}
    assert alone.visual.proj is tiny_clip.visual.proj


def test_towers_of_no_known_family_are_refused():
    clip = nn.Module()
    clip.visual = nn.Linear(2, 2)
    with pytest.raises(VactkError, match="a vision tower of type Linear cannot carry temporal modules"):
        vision_tower(clip)


def test_every_parameter_has_its_layer(tiny_clip):
    found = {name: layer_number(name) for name in tiny_clip.visual.state_dict()}
    below = {"class_embedding", "positional_embedding", "conv1.weight", "ln_pre.weight", "ln_pre.bias"}
    assert {name for name, layer in found.items() if layer == -1} == below
    assert {name for name, layer in found.items() if layer is None} == {
        "proj",
        "ln_post.weight",
        "ln_post.bias",
    }
    assert found["transformer.resblocks.2.mlp.c_fc.weight"] == 2
    assert text_tower.layer_number("clip.text.transformer.resblocks.1.ln_1.bias") == 1
    assert text_tower.layer_number("clip.token_embedding.weight") == -1
    assert text_tower.layer_number("clip.text_projection") is None


class LouderAttention(TemporalBlock):
    """Changes attention and nothing else."""

    def attention(self, block, x, num_frames, num_queries):
        return 1.5 * super().attention(block, x, num_frames, num_queries)


class SameAttention(TemporalBlock):
    """Attention written out again."""

    def attention(self, block, x, num_frames, num_queries):
        return cross_attend(block, x, x)[:, :num_queries]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (TemporalBlock, True),
        (SameAttention, True),
        (LouderAttention, False),
        (NeighbourAttention, False),
        (lambda: CrossFrameAttention(32, 2), False),
        (lambda: STAdapterConfig(width=4).build(32, (4, 4), 1)[0], True),
    ],
)
def test_blocks_know_whether_they_are_the_identity(tiny_clip, build, expected):
    tower, x = vision_tower(tiny_clip), torch.randn(3, 17, 32)
    added = build()
    with torch.no_grad():
        assert added.is_identity(tower.blocks[0], x, 3) is expected
        for parameter in added.parameters():
            parameter.add_(0.1)
        assert added.is_identity(tower.blocks[0], x, 3) is (expected and not list(added.parameters()))


def test_a_traceable_text_tower_gives_what_the_tower_gives(tiny_clip):
    tokens = torch.randint(1, 58, (3, 9))
    tokens[:, -1] = 59
    text = TextTower(tiny_clip)
    alone = TraceableTextTower(text)
    with torch.no_grad():
        torch.testing.assert_close(alone(tokens), text.encode(tokens))
    assert not any(name.startswith("visual") for name in alone.state_dict())
