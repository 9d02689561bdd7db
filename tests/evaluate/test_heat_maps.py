from __future__ import annotations

import pytest
import torch

from vactk.evaluate.classifier import similarity_scorer
from vactk.evaluate.heat_maps import draw_heat_map, heat_map
from vactk.models.backbone import BackboneConfig
from vactk.models.temporal.block import TemporalBlock
from vactk.models.temporal.registry import TEMPORAL
from vactk.models.video_model import ModelConfig, new_model


@pytest.mark.parametrize("temporal", TEMPORAL)
def test_maps_are_attention_times_its_gradient(temporal, monkeypatch):
    model = new_model(ModelConfig(backbone=BackboneConfig(name="toy"), temporal=TEMPORAL[temporal]()))
    generator = torch.Generator().manual_seed(0)
    tower = model.video_clip.vision
    video = torch.randn(3, 3, *tower.image_size, generator=generator)
    classes = torch.nn.functional.normalize(torch.randn(5, tower.embed_dim, generator=generator), dim=-1)
    scorer = similarity_scorer(model, classes)
    found = heat_map(model, video, scorer, 2)
    assert found.shape == (3, *tower.grid)
    assert 0 <= float(found.min()) < float(found.max()) == 1
    assert draw_heat_map(torch.rand(3, 3, 32, 32), found).width == 3 * 114 - 2
    if type(model.video_clip.temporal[-1]).attention is not TemporalBlock.attention:
        return  # the oracle below has a frame's own attention
    kept = []

    def attention(self, block, x, num_frames, num_queries):
        query, key, value = (t.transpose(1, 2) for t in block.project_qkv(x[:, :num_queries], x))
        weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)
        kept.append(weights)
        return block.merge_heads((weights @ value).transpose(1, 2))

    monkeypatch.setattr(TemporalBlock, "attention", attention)
    logits = scorer(model.video_clip.video_features(video[None]))[0]
    (gradient,) = torch.autograd.grad(logits[2] - logits.mean(), kept[-1])
    num_patches = tower.grid[0] * tower.grid[1]
    naive = (kept[-1] * gradient).sum(dim=2).clamp(min=0).mean(dim=1)[:, 1 : 1 + num_patches].detach()
    torch.testing.assert_close(found.flatten(1), naive / naive.max(), rtol=1e-3, atol=1e-4)
    assert all(weight.grad is None for weight in model.module_dict().parameters())
