from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vactk.checkpoints.checkpoint import load_model, save_model
from vactk.errors import VactkError
from vactk.models.backbone import BackboneConfig
from vactk.models.temporal.adapters import FrameAdapterConfig, STAdapterConfig, TEDAdapterConfig
from vactk.models.text_tower import TextAdapterConfig
from vactk.models.video_model import Heads, ModelConfig, new_model

TOY = BackboneConfig(name="toy")
FULL = ModelConfig(
    backbone=TOY,
    temporal=TEDAdapterConfig(width=8, layers=(-1,)),
    text_adapter=TextAdapterConfig(layers=1, width=8),
    frame_adapter=FrameAdapterConfig(enabled=True),
)
HEADS = Heads(classes=("a", "b"), class_head=True, vocabulary=("a", "b", "of"))


def perturbed(config=FULL, heads=HEADS):
    torch.manual_seed(1)
    model = new_model(config, heads)
    with torch.no_grad():
        for name, parameter in model.module_dict().named_parameters():
            if not name.startswith("clip."):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("towers", [(), ("vision",), ("vision", "text")])
def test_a_model_comes_back_as_it_was_saved(tmp_path, towers):
    model = perturbed()
    with torch.no_grad():
        if "vision" in towers:
            model.video_clip.backbone.visual.proj.mul_(2)
    path = tmp_path / "model.safetensors"
    save_model(path, model, towers=towers, info={"step": 3, "dataset": "x"})
    loaded = load_model(tmp_path)
    assert loaded.heads == HEADS
    assert loaded.info["step"] == 3
    video = torch.randn(1, 3, 3, 64, 64)
    with torch.no_grad():
        for one, two in zip(
            model.video_clip.video_features(video), loaded.video_clip.video_features(video), strict=True
        ):
            assert torch.equal(one, two)
    assert all(
        torch.equal(t, loaded.module_dict().state_dict()[n])
        for n, t in model.module_dict().state_dict().items()
    )
    stored = load_file(path)
    assert any(name.startswith("clip.visual.") for name in stored) == ("vision" in towers)
    assert any(name.startswith("clip.token") for name in stored) == ("text" in towers)


def test_a_file_of_adapters_is_small(tmp_path):
    save_model(tmp_path / "m.safetensors", perturbed(), towers=(), info={})
    assert (tmp_path / "m.safetensors").stat().st_size < 100_000


def rewrite(path, **changes):
    """The same file with some of its metadata changed."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["vactk"])
    save_file(load_file(path), path, metadata={"vactk": json.dumps({**metadata, **changes})})


def test_files_of_other_models_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, perturbed(), towers=(), info={})
    rewrite(path, frozen_fingerprint="0" * 16)
    with pytest.raises(VactkError, match=r"trained on other weights of backbone 'toy' .*--pretrained FILE"):
        load_model(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "has checkpoint format 99, this vactk reads 1"),
        ({"heads": {"classes": "a"}}, "'classes' must be a list"),
        ({"towers": 3}, "the metadata of .* are damaged"),
        ({"model": {"backbone": {"name": "toy"}, "temporal": "gru"}}, "unknown temporal module 'gru'"),
        (
            {"model": {"backbone": {"name": "toy"}, "temporal": {"name": "st_adapter"}}},
            "does not fit the model; missing: temporal",
        ),
    ],
)
def test_damaged_metadata_are_named(tmp_path, changes, message):
    path = tmp_path / "model.safetensors"
    save_model(path, perturbed(), towers=(), info={})
    rewrite(path, **changes)
    with pytest.raises(VactkError, match=message):
        load_model(path)


def test_truncated_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, perturbed(), towers=(), info={})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(VactkError, match="is damaged or not a safetensors file"):
        load_model(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(VactkError, match="not a vactk checkpoint"):
        load_model(path)
    with pytest.raises(VactkError, match="there is no file"):
        load_model(tmp_path / "nowhere.safetensors")


def test_a_new_model_equals_its_clip_with_everything_added():
    model = new_model(FULL, HEADS)
    video = torch.randn(1, 4, 3, 64, 64)
    tokens = model.backbone.tokenize(["a red star", "a key over dots"])
    with torch.no_grad():
        frames = model.video_clip.backbone.encode_image(video[0])
        torch.testing.assert_close(model.video_clip.video_features(video).frames[0], frames)
        torch.testing.assert_close(
            model.video_clip.encode_text(tokens), model.video_clip.backbone.encode_text(tokens)
        )


def test_what_cannot_be_built_is_refused():
    with pytest.raises(VactkError, match="no block 7"):
        new_model(ModelConfig(backbone=TOY, temporal=STAdapterConfig(layers=(7,))))
    with pytest.raises(VactkError, match="text adapters need layers from 0 to"):
        new_model(ModelConfig(backbone=TOY, text_adapter=TextAdapterConfig(layers=9)))
