from __future__ import annotations

import pytest
import torch

from vactk.config import RENAMED_SETTINGS, build, merge, parse_overrides
from vactk.data.batch_sampler import num_steps
from vactk.data.config import UniformSampling
from vactk.data.datasets import find_dataset
from vactk.data.records import VideoSet
from vactk.errors import VactkError
from vactk.models.backbone import BackboneConfig
from vactk.models.video_model import Heads, ModelConfig, new_model
from vactk.recipes import read_recipe, recipe_names
from vactk.text.words import build_vocabulary
from vactk.train.optim import peak_lr
from vactk.train.recipe import Recipe, fit_batch
from vactk.train.setup import build_model, build_task
from vactk.train.task import CLASS_LOSSES, choose_trained
from vactk.video import Timeline

M2CLIP = [name for name in recipe_names() if name.startswith("m2clip")]


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_builds(name):
    recipe = build(Recipe, read_recipe(name))
    assert (recipe.dataset in name.split("-")) != name.startswith(
        "own-videos"
    )  # which are for any folder or list


@pytest.mark.parametrize("name", M2CLIP)
def test_m2clip_trains_adapters_on_all_four_heads(name):
    task = build(Recipe, read_recipe(name)).task
    assert task.towers == ()
    assert min(getattr(task, loss) for loss in CLASS_LOSSES) > 0


def test_the_published_settings():
    k400, ssv2 = (build(Recipe, read_recipe(f"m2clip-{name}")) for name in ("k400", "ssv2"))
    assert peak_lr(k400.optim, 512) == pytest.approx(2e-3)
    assert k400.data.views * k400.data.transform.eval_crops == 12
    assert ssv2.data.views * ssv2.data.transform.eval_crops == 3
    assert ssv2.data.transform.flip == 0
    assert peak_lr(k400.optim, k400.run.batch_size) == pytest.approx(2.8125e-4)
    assert peak_lr(ssv2.optim, ssv2.run.batch_size) == pytest.approx(5e-4)
    for name in M2CLIP:
        recipe = build(Recipe, read_recipe(name))
        if recipe.dataset != "shapes":
            assert (recipe.optim.warmup_start_factor, recipe.optim.clip_grad_norm, recipe.task.gather) == (
                0,
                0,
                False,
            )
    for size in ("", "-b32", "-l14"):
        recipe = build(Recipe, read_recipe(f"openvclip-k400{size}"))
        assert peak_lr(recipe.optim, 64) * recipe.optim.warmup_start_factor == pytest.approx(3.33e-8)
        assert recipe.data.transform.short_side == (224, 256)
        assert (recipe.interpolated.weight, recipe.interpolated.alphas) == (0.5, (0.0, 0.6))
        averaged = recipe.average.steps(recipe.run.epochs, lambda epochs: num_steps(240_001, 64, epochs))
        assert len(averaged) == 21


def test_a_recipe_says_only_what_differs_from_its_base(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("base: openvclip-k400-l14\noptim: {lr: 1}\ndata: {sampling: uniform}\n")
    own, base = (build(Recipe, read_recipe(name)) for name in (str(path), "openvclip-k400-l14"))
    assert (own.model.backbone.name, own.optim.lr, own.data.sampling) == ("ViT-L-14", 1, UniformSampling())
    assert own.run == base.run
    path.write_text("base: openvclip-k40\n")
    with pytest.raises(VactkError, match="unknown recipe 'openvclip-k40'; did you mean"):
        read_recipe(str(path))


def test_fine_tuning_on_ssv2_neither_flips_nor_samples_a_stretch_that_its_clips_lack():
    recipe = build(Recipe, read_recipe(find_dataset("ssv2").finetune_recipe))
    assert (recipe.dataset, recipe.data.transform.flip) == ("ssv2", 0)
    times_s = torch.arange(40) / 12
    chosen = recipe.data.sampling.indices(Timeline(times_s=times_s, fps=12), 8, 1, train=False)
    assert chosen.unique().numel() == 8


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


@pytest.mark.parametrize(
    ("asked", "accumulate", "videos", "processes", "expected"),
    [
        (32, 1, 32, 1, 32),
        (32, 1, 20, 1, 20),
        (32, 1, 21, 2, 20),
        (32, 4, 21, 2, 16),
        (32, 4, 7, 2, 8),  # no smaller one can be shared out
        (4, 4, 3, 1, 4),
    ],
)
def test_a_batch_is_no_larger_than_the_data(asked, accumulate, videos, processes, expected):
    recipe = build(Recipe, {"run": {"batch_size": asked, "accumulate": accumulate}})
    assert fit_batch(recipe, videos, processes).run.batch_size == expected


def test_weights_of_losses_that_make_no_sense_are_refused(quick_recipe):
    with pytest.raises(VactkError, match=r"weight of a loss must be at least 0, got descriptions=-1"):
        quick_recipe("task.descriptions=-1")
    off = quick_recipe(
        *(f"task.{loss}=0" for loss in ("contrastive", "cross_modal", "masked_words", "visual"))
    )
    videos = VideoSet(name="x", split="y", classes=("a", "b"), words=("a", "b"), records=())
    model, _ = build_model(off, videos)
    with pytest.raises(
        VactkError, match=r"no loss to train on: one of the weights contrastive, .* must be above 0"
    ):
        build_task(off, model, videos, print)


@pytest.mark.parametrize(("old", "new"), RENAMED_SETTINGS.items())
def test_a_setting_under_its_former_name_is_refused_with_the_new_one(old, new):
    with pytest.raises(VactkError, match=rf"^setting '{old}' is now called '{new}'$"):
        build(Recipe, merge(read_recipe("m2clip-shapes"), parse_overrides([f"{old}=0"])))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["run.patience=3"], "run.patience counts evaluations since the best one: set run.keep=best"),
        (["run.min_steps=-1"], "min_steps, evaluations and patience must be at least 0"),
        (["optim.warmup_share=1"], "warmup_share must be a share of the steps below 1, got 1"),
        (["run.save_every=-1"], "save_every must be at least 0, and log_every above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(quick_recipe, settings, message):
    with pytest.raises(VactkError, match=message):
        quick_recipe(*settings)
