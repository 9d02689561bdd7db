"""Checkpoints of M2-CLIP's release: adapters and heads under their published names, without CLIP."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from vactk.checkpoints.checkpoint import load_model
from vactk.checkpoints.load import load_foreign
from vactk.cli.app import app
from vactk.config import build as settings
from vactk.data.config import M2CLIPSampling
from vactk.data.shapes import clips
from vactk.errors import VactkError
from vactk.models.backbone import BackboneConfig
from vactk.models.temporal.adapters import FrameAdapterConfig, STAdapterConfig, TEDAdapterConfig
from vactk.models.text_tower import TextAdapterConfig
from vactk.models.video_model import Heads, ModelConfig, new_model
from vactk.train.recipe import Recipe

TOY = BackboneConfig(name="toy")
CLASSES = ("star moving left", "key moving right", "fish moving up")
PUBLISHED = (  # ours, theirs
    ("frame_adapter.down.", "visual.t_adapter.fc1."),
    ("frame_adapter.conv.", "visual.t_adapter.conv."),
    ("frame_adapter.up.", "visual.t_adapter.fc2."),
    ("class_head.fc.", "visual.adapter_fc."),
    ("word_head.dense.", "mlm_adapter.transform.dense."),
    ("word_head.norm.", "mlm_adapter.transform.LayerNorm."),
    ("word_head.decoder.weight", "mlm_adapter.decoder.weight"),
    ("word_head.decoder.bias", "mlm_adapter.bias"),
    ("temporal.", "visual.transformer.resblocks."),
    ("text_adapters.", "transformer.resblocks."),
    ("pre_attn_adapter.", "adapter_pre_attn."),
    ("pre_mlp_adapter.", "adapter_pre_mlp."),
)


def published_name(name, num_text_blocks):
    is_text = name.startswith(("text_adapters.", "word_head.adapters."))
    name = name.replace("word_head.adapters.", f"text_adapters.{num_text_blocks}.")
    for ours, theirs in PUBLISHED:
        name = name.replace(ours, theirs, 1)
    if is_text:
        return name.replace(".fc", ".textad_fc")
    if "resblocks" in name:
        for ours, theirs in (("down", "fc1"), ("up", "fc2")):
            name = name.replace(f".diff_{ours}.", f".offset_adapter.{theirs}.").replace(
                f".{ours}.", f".{theirs}."
            )
        name = name.replace(".diff_conv.", ".offset_adapter.conv.")
    return name


def build(placement="pre_mlp", layers=()):
    torch.manual_seed(4)
    model = new_model(
        ModelConfig(
            backbone=TOY,
            temporal=TEDAdapterConfig(width=6, kernel_size=5, placement=placement, layers=layers),
            text_adapter=TextAdapterConfig(layers=1, width=10, placement=placement),
            frame_adapter=FrameAdapterConfig(enabled=True, width=7),
        ),
        Heads(classes=CLASSES, class_head=True, vocabulary=("a", "b")),
    )
    with torch.no_grad():
        for name, parameter in model.module_dict().named_parameters():
            if not name.startswith("clip."):
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return model


def release(model, path):
    """The file that the published training script would have written for `model`."""
    tensors = {}
    for name, tensor in model.module_dict().state_dict().items():
        if not name.startswith("clip."):
            theirs = published_name(name, len(model.video_clip.text.blocks))
            tensors[theirs] = tensor[:, :, None] if name.endswith("diff_conv.weight") else tensor
    torch.save({"model": tensors, "next_epoch": 1, "optimizer": {"state": {}}}, path)
    return path


@pytest.mark.parametrize(("placement", "layers"), [("pre_mlp", ()), ("pre_attn", (1,)), ("both", ())])
def test_widths_kernels_and_places_are_read_off_the_tensors(tmp_path, placement, layers):
    model = build(placement, layers)
    found = load_foreign(release(model, tmp_path / "checkpoint-0.pth"), TOY)
    assert found.config.temporal.placement == placement
    assert found.config.text_adapter.layers == 1
    assert found.heads.knows(CLASSES)
    assert not found.heads.knows(CLASSES[:2])
    video, tokens = torch.randn(2, 4, 3, 64, 64), model.backbone.tokenize(["a star", "two keys"])
    with torch.no_grad():
        for ours, theirs in zip(
            model.video_clip.video_features(video), found.video_clip.video_features(video), strict=True
        ):
            torch.testing.assert_close(theirs, ours)
        torch.testing.assert_close(found.video_clip.encode_text(tokens), model.video_clip.encode_text(tokens))
        pooled = model.video_clip.video_features(video).pooled
        torch.testing.assert_close(found.class_head(pooled), model.class_head(pooled))


@pytest.mark.parametrize(("num_classes", "views", "crops", "stride"), [(400, 3, 4, 16), (174, 1, 3, 0)])
def test_files_open_with_the_views_of_their_dataset(tmp_path, num_classes, views, crops, stride):
    model = build()
    model.class_head.fc = torch.nn.Linear(model.class_head.fc.in_features, num_classes)
    found = load_foreign(release(model, tmp_path / "checkpoint-0.pth"), TOY)
    data = settings(Recipe, found.info["recipe"]).data
    assert (data.views, data.transform.eval_crops, data.sampling) == (
        views,
        crops,
        M2CLIPSampling(stride=stride),
    )
    assert data.transform.scaling == "m2clip"


def test_what_the_file_does_not_say_must_be_stated(tmp_path):
    path = release(build(), tmp_path / "checkpoint-0.pth")
    with pytest.raises(VactkError, match="adapters of M2-CLIP without their CLIP: name it with --backbone"):
        load_foreign(path)
    with pytest.raises(VactkError, match="leave out --temporal"):
        load_foreign(path, TOY, STAdapterConfig())
    with pytest.raises(VactkError, match="does not fit the model"):
        load_foreign(path, BackboneConfig(name="ViT-B-32", pretrained="none"))


def test_the_command_line_takes_it(tmp_path, monkeypatch):
    for split in ("seen", "unseen"):
        monkeypatch.setitem(clips.SPLITS, split, clips.Split(classes=CLASSES, videos_per_class=1, seed=1))
    monkeypatch.setenv("VACTK_CACHE", str(tmp_path / "cache"))
    path = release(build(), tmp_path / "checkpoint-0.pth")
    args = [
        "--dataset",
        "shapes",
        "--checkpoint",
        path,
        "--backbone",
        "toy",
        "--workers",
        0,
        "--by",
        "ensemble",
    ]
    result = CliRunner().invoke(app, ["zeroshot", *map(str, args), "--json"], prog_name="vactk")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["by"] == "ensemble"
    assert answer["templates"] == "video"
    assert {"similarity", "class_head"} <= answer.keys()


def test_training_starts_from_it(tmp_path, monkeypatch):
    for split in ("train", "seen", "unseen"):
        monkeypatch.setitem(clips.SPLITS, split, clips.Split(classes=CLASSES, videos_per_class=2, seed=1))
    monkeypatch.setenv("VACTK_CACHE", str(tmp_path / "cache"))
    model = build()
    path = release(model, tmp_path / "checkpoint-0.pth")
    args = ["--dataset", "shapes", "--checkpoint", path, "--backbone", "toy", "--workers", 0, "--frames", 2]
    short = ["--batch-size", 6, "--epochs", 1, "optim.lr=1e-9", "--output", tmp_path / "run"]
    result = CliRunner().invoke(app, ["finetune", *map(str, [*args, *short])], prog_name="vactk")
    assert result.exit_code == 0, result.stderr
    found = load_model(tmp_path / "run")
    assert found.config.temporal == model.config.temporal.__class__(width=6, kernel_size=5, layers=(0, 1, 2))
    expected = model.module_dict().state_dict()
    for name, tensor in found.video_clip.temporal.state_dict().items():
        torch.testing.assert_close(tensor, expected[f"temporal.{name}"], rtol=0, atol=1e-6)


def test_a_file_that_the_release_wrote(reference):
    path = reference / "containers" / "m2clip_checkpoint-0.pth"
    backbone = reference / "containers" / "openai_clip_m2.pt"
    if not path.exists():
        pytest.skip(f"no {path}")
    model = load_foreign(path, BackboneConfig(name=str(backbone)))
    with torch.no_grad():
        features = model.video_clip.video_features(
            torch.randn(1, 3, 3, *model.video_clip.backbone.visual.image_size)
        )
    assert features.frames.isfinite().all()
    assert model.class_head is not None
    assert model.word_head is not None
