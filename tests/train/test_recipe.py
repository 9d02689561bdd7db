from __future__ import annotations

import pytest

from vactk.config import build
from vactk.models.backbone import BackboneConfig
from vactk.models.video_model import Heads, ModelConfig, new_model
from vactk.text.words import build_vocabulary
from vactk.train.optim import peak_lr
from vactk.train.recipe import Recipe, read_recipe, recipe_names
from vactk.train.task import choose_trained

M2CLIP = [name for name in recipe_names() if name.startswith("m2clip")]


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_builds(name):
    recipe = build(Recipe, read_recipe(name))
    assert name.endswith(recipe.dataset)


@pytest.mark.parametrize("name", M2CLIP)
def test_m2clip_trains_adapters_on_all_four_heads(name):
    task = build(Recipe, read_recipe(name)).task
    assert task.towers == ()
    assert min(task.weights.values()) > 0


def test_the_published_settings():
    k400, ssv2 = (build(Recipe, read_recipe(f"m2clip-{name}")) for name in ("k400", "ssv2"))
    assert peak_lr(k400.optim, 512) == pytest.approx(2e-3)
    assert k400.data.views * k400.data.transform.eval_crops == 12
    assert ssv2.data.views * ssv2.data.transform.eval_crops == 3
    assert ssv2.data.transform.flip == 0


@pytest.mark.parametrize(("name", "places"), [("m2clip-k400", 12), ("m2clip-ssv2", 24)])
def test_trained_parameters_are_those_that_the_layers_add_up_to(name, places):
    """ViT-B/16: "12x384" and "24x384" of the paper."""
    config = build(Recipe, read_recipe(name)).model
    assert isinstance(config, ModelConfig)
    untrained = ModelConfig(
        backbone=BackboneConfig(name="ViT-B-16", pretrained="none"),
        temporal=config.temporal,
        text_adapter=config.text_adapter,
        frame_adapter=config.frame_adapter,
    )
    vocabulary = build_vocabulary(["a video of juggling", "a video of waving"])
    heads = Heads(classes=("juggling", "waving"), class_head=True, vocabulary=vocabulary)
    model = new_model(untrained, heads)
    choose_trained(model, ())
    trained = sum(p.numel() for p in model.module_dict().parameters() if p.requires_grad)
    enhancement = (768 * 384 + 384) + (384 * 3 + 384) + (384 * 768 + 768)
    difference = (768 * 384 + 384) + (384 * 9 + 384) + (384 * 768 + 768)
    text_adapter = (512 * 384 + 384) + (384 * 512 + 512)
    num_text = 2 if places == 12 else 26
    frame_adapter = (512 * 256 + 256) + (256 * 3 + 256) + (256 * 512 + 512)
    class_head = 768 * 2 + 2
    word_head = (512 * 512 + 512) + 2 * 512 + (512 * len(vocabulary) + len(vocabulary))
    assert trained == (
        places * enhancement
        + (places - 1) * difference  # the last block's would reach no output
        + num_text * text_adapter
        + frame_adapter
        + class_head
        + word_head
    )
