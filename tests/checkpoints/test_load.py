from __future__ import annotations

import pytest
import torch

from vactk.checkpoints.checkpoint import save_model
from vactk.checkpoints.load import load_foreign, open_model
from vactk.checkpoints.openvclip import is_openvclip, rename_openvclip
from vactk.errors import VactkError
from vactk.evaluate.setup import checkpoint_config
from vactk.models.backbone import BackboneConfig, named_config
from vactk.models.temporal.adapters import NoTemporal, STAdapterConfig
from vactk.models.temporal.frame_attention import (
    CrossFrameAttention,
    CrossFrameAttentionConfig,
    NeighbourAttention,
    NeighbourAttentionConfig,
)
from vactk.models.video_model import ModelConfig, new_model

TOY = BackboneConfig(name="toy")


def openvclip_file(path, model, **more):
    """A file as Open-VCLIP's training and averaging tools write it."""
    tensors = {f"model.{name}": t.clone() for name, t in model.video_clip.backbone.state_dict().items()}
    torch.save({"model_state": {**tensors, **more}}, path)
    return path


def test_an_openvclip_file_becomes_a_model(tmp_path):
    source = new_model(ModelConfig(backbone=TOY, temporal=NeighbourAttentionConfig()))
    with torch.no_grad():
        for parameter in source.video_clip.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    raw = {f"raw_model.{name}": t for name, t in source.video_clip.backbone.state_dict().items()}
    path = openvclip_file(tmp_path / "openvclip.pth", source, **raw)
    model = load_foreign(path, TOY)
    assert model.config.temporal == NeighbourAttentionConfig(window=1, ends="zeros")
    assert model.config.similarity == "frames"
    assert model.info["recipe"]["templates"] == "openvclip"
    assert checkpoint_config(model, {}).data.view_mean == "logits"
    video = torch.randn(1, 3, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.video_clip.encode_video(video), source.video_clip.encode_video(video))


def test_attention_and_backbone_can_be_stated(tmp_path):
    path = openvclip_file(tmp_path / "a.pth", new_model(ModelConfig(backbone=TOY)))
    stated = {"backbone": {"name": "toy"}, "temporal": {"name": "neighbour_attention", "window": 3}}
    model = open_model(path, stated)
    assert all(isinstance(b, NeighbourAttention) and b.window == 3 for b in model.video_clip.temporal)
    assert open_model(path, {**stated, "temporal": "none"}).config.temporal == NoTemporal()
    with pytest.raises(VactkError, match="does not fit the model; missing: temporal"):
        open_model(path, {**stated, "temporal": "st_adapter"})
    with pytest.raises(VactkError, match="unknown temporal module 'neighbor_attention'; did you mean"):
        open_model(path, {**stated, "temporal": "neighbor_attention"})


def test_variants_with_parameters_show_themselves(tmp_path):
    source = new_model(ModelConfig(backbone=TOY, temporal=CrossFrameAttentionConfig()))
    added = {
        f"model.visual.transformer.resblocks.{name}": tensor
        for name, tensor in source.video_clip.temporal.state_dict().items()
    }
    model = load_foreign(openvclip_file(tmp_path / "c.pth", source, **added), TOY)
    assert isinstance(model.video_clip.temporal[0], CrossFrameAttention)

    source = new_model(ModelConfig(backbone=TOY, temporal=STAdapterConfig(width=6)))
    parts = {"down": "down", "conv": "conv3d", "up": "up"}
    added = {}
    for name, tensor in source.video_clip.temporal.state_dict().items():
        block, _, part, leaf = name.split(".")
        if leaf == "weight":  # all of them are Conv3d there
            tensor = tensor[..., None, None] if part == "conv" else tensor[..., None, None, None]
        added[f"model.visual.transformer.resblocks.{block}.stadapt_{parts[part]}_1.{leaf}"] = tensor
    model = load_foreign(openvclip_file(tmp_path / "s.pth", source, **added), TOY)
    assert model.config.temporal == STAdapterConfig(width=6)
    for name, tensor in source.video_clip.temporal.state_dict().items():
        assert torch.equal(model.video_clip.temporal.state_dict()[name], tensor)


def test_renaming():
    tensors = {
        "model.visual.proj": torch.zeros(1),
        "raw_model.visual.proj": torch.zeros(1),
        "projector.weight": torch.zeros(1),
    }
    assert list(rename_openvclip(tensors)) == ["clip.visual.proj"]
    assert is_openvclip(["model.visual.proj", "model.visual.conv1.weight"])
    assert not is_openvclip(["visual.proj", "visual.conv1.weight"])


def test_the_architecture_is_known_by_its_shapes():
    with torch.device("meta"):
        clip = new_model(
            ModelConfig(backbone=BackboneConfig(name="ViT-L-14-336", pretrained="none")), weights=False
        ).video_clip.backbone
    tensors = {f"model.{name}": tensor for name, tensor in clip.state_dict().items()}
    expected = BackboneConfig(name="ViT-L-14-336", pretrained="openai", quick_gelu=True)
    assert named_config(tensors, quick_gelu=True) == expected
    assert named_config({"model.visual.proj": torch.zeros(1)}, quick_gelu=True) is None


def test_files_of_no_known_kind_are_refused(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(
        VactkError, match=r"no checkpoint that vactk knows: M2-CLIP.*Open-VCLIP, a plain CLIP"
    ):
        open_model(tmp_path / "x.pth")
    (tmp_path / "y.pth").write_bytes(b"not a zip")
    with pytest.raises(VactkError, match=r"'.*y.pth' is damaged"):
        open_model(tmp_path / "y.pth")
    with pytest.raises(VactkError, match="there is no file"):
        open_model(tmp_path / "z.pth")


def test_vactks_own_checkpoints_say_what_they_are(tmp_path):
    model = new_model(ModelConfig(backbone=TOY, temporal=NeighbourAttentionConfig()))
    save_model(tmp_path / "model.safetensors", model, towers=(), info={})
    assert open_model(tmp_path).config == model.config
    with pytest.raises(VactkError, match="names its own backbone"):
        open_model(tmp_path, {"backbone": {"name": "toy"}})
    with pytest.raises(VactkError, match="names its own temporal module"):
        open_model(tmp_path, {"temporal": "none"})
