from __future__ import annotations

import json
import sys
import types

import pytest
import torch
from safetensors.torch import load_file, save_file

import vactk.torchvision_ops  # noqa: F401
from vactk.checkpoints.import_report import describe_import
from vactk.checkpoints.load import is_foreign, open_model
from vactk.errors import VactkError
from vactk.evaluate.setup import checkpoint_config
from vactk.models.backbone import BackboneConfig, load_backbone
from vactk.models.temporal.adapters import NoTemporal, STAdapterConfig
from vactk.models.temporal.frame_attention import CrossFrameAttentionConfig, NeighbourAttentionConfig
from vactk.models.video_model import ModelConfig, new_model

TOY = {"backbone": {"name": "toy"}}
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
TEXT = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 10, "eos_token_id": 59,
}  # fmt: skip
TOKENS = torch.tensor([[58, 3, 4, 59, 0, 0, 0, 0, 0, 0], [58, 7, 59, 0, 0, 0, 0, 0, 0, 0]])


def toy_state(backbone="toy"):
    return {
        name: tensor.clone()
        for name, tensor in load_backbone(BackboneConfig(name=backbone)).clip.state_dict().items()
    }


def randomise(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.15 * torch.randn_like(parameter))
    return module.eval()


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def huggingface(transformers, kind, folder, act="quick_gelu", **vision):
    config = getattr(transformers, f"{kind}Config")
    more = {"prompt_layers": 1, "prompt_num_attention_heads": 2} if kind == "XCLIP" else {}
    text = {**TEXT, "hidden_act": act}
    built = config(
        text_config=text, vision_config={**VISION, "hidden_act": act, **vision}, projection_dim=24, **more
    )
    model = randomise(getattr(transformers, f"{kind}Model")(built))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_a_huggingface_clip_gives_what_transformers_gives(transformers, tmp_path, act):
    theirs = huggingface(transformers, "CLIP", tmp_path, act)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3]}))
    assert is_foreign(tmp_path)
    model = open_model(tmp_path)
    pictures = torch.randn(3, 3, 32, 32)
    image = theirs.visual_projection(theirs.vision_model(pixel_values=pictures).pooler_output)
    text = theirs.text_projection(theirs.text_model(input_ids=TOKENS).pooler_output)
    torch.testing.assert_close(model.video_clip.encode_video(pictures[:, None]), image)
    torch.testing.assert_close(model.video_clip.encode_text(TOKENS), text)
    assert model.config.backbone.quick_gelu == (act == "quick_gelu")
    assert model.backbone.mean == (0.1, 0.2, 0.3)
    assert model.info["import"]["left_over"] == []
    backbone = load_backbone(BackboneConfig(name=str(tmp_path)))
    torch.testing.assert_close(backbone.clip.encode_image(pictures), image)
    assert (
        open_model(tmp_path, {"temporal": "neighbour_attention"}).config.temporal
        == NeighbourAttentionConfig()
    )


@torch.no_grad()
def test_of_a_huggingface_xclip_towers_and_messages_map_and_the_rest_is_named(transformers, tmp_path):
    mit = {
        "mit_hidden_size": 24,
        "mit_intermediate_size": 32,
        "mit_num_hidden_layers": 1,
        "mit_num_attention_heads": 2,
    }
    theirs = huggingface(transformers, "XCLIP", tmp_path, num_frames=4, **mit)
    model = open_model(tmp_path)
    assert model.config.temporal == CrossFrameAttentionConfig(heads=2)
    video = torch.randn(2, 4, 3, 32, 32)
    frames = theirs.visual_projection(theirs.vision_model(pixel_values=video.flatten(0, 1)).pooler_output)
    torch.testing.assert_close(model.video_clip.video_features(video).frames.flatten(0, 1), frames)
    text = theirs.text_projection(theirs.text_model(input_ids=TOKENS).pooler_output)
    torch.testing.assert_close(model.video_clip.encode_text(TOKENS), text)
    left = model.info["import"]["left_over"]
    assert {name.split(".")[0] for name in left} == {
        "mit", "prompts_generator", "prompts_visual_layernorm", "prompts_visual_projection",
    }  # fmt: skip
    said = describe_import(model.info["import"])
    assert "left over (mit.*, prompts_generator.*" in said

    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {**tensors, "surprise.weight": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(VactkError, match=r"X-CLIP\) holds tensors unknown to vactk: surprise.weight"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "siglip"},
            "a folder of a model of type 'siglip'; vactk reads open_clip, clip, xclip",
        ),
        ({"vision_config": {**VISION, "hidden_act": "relu"}}, "its activations are relu and quick_gelu"),
        (
            {"text_config": {**TEXT, "eos_token_id": 5}},
            "its texts end with token 5, which is not the highest",
        ),
        ({"vision_config": {**VISION, "num_channels": 1}}, "its images have 1 channels instead of 3"),
        ({"vision_config": {**VISION, "num_attention_heads": 5}}, "heads that do not divide its width 32"),
        ({"vision_config": {**VISION, "hidden_size": "wide"}}, "is not one of a CLIP that vactk knows"),
        ({"projection_dim": 7}, "does not fit the model; other shape"),
        (
            {"vision_config": {**VISION, "num_hidden_layers": 3}},
            "does not fit the model; missing: clip.visual.transf",
        ),
    ],
)
def test_configurations_that_do_not_fit(transformers, tmp_path, change, message):
    huggingface(transformers, "CLIP", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(VactkError, match=message):
        open_model(tmp_path)


def test_folders_that_are_damaged(transformers, tmp_path):
    huggingface(transformers, "CLIP", tmp_path)
    weights = tmp_path / "model.safetensors"
    index = tmp_path / "model.safetensors.index.json"
    tensors = load_file(weights)
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[:9]}, tmp_path / "one.safetensors")
    save_file({name: tensors[name] for name in names[9:]}, tmp_path / "two.safetensors")
    weights.unlink()
    with pytest.raises(VactkError, match=r"there are no weights in .*such as model.safetensors"):
        open_model(tmp_path)
    places = {name: "one.safetensors" if i < 9 else "two.safetensors" for i, name in enumerate(names)}
    index.write_text(json.dumps({"weight_map": places}))
    assert open_model(tmp_path).info["import"]["mapped"] == len(names)
    index.write_text(json.dumps({"weight_map": {**places, names[0]: "../one.safetensors"}}))
    with pytest.raises(VactkError, match="names a file outside of its folder"):
        open_model(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(VactkError, match="is not a configuration"):
        open_model(tmp_path)


def test_plain_clips_are_checkpoints_too(tmp_path):
    state = toy_state()
    save_file({k: t.contiguous() for k, t in state.items()}, tmp_path / "clip.safetensors")
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "clip.pt"
    )
    for name in ("clip.safetensors", "clip.pt"):
        model = open_model(tmp_path / name, TOY)
        assert model.config.temporal == NoTemporal()
        own = model.video_clip.backbone.state_dict()
        assert all(torch.equal(own[key], tensor) for key, tensor in state.items())
        assert model.info["import"] == {
            "format": "plain CLIP", "mapped": len(state), "missing": [], "left_over": [],
        }  # fmt: skip
    model = open_model(tmp_path / "clip.pt", {**TOY, "temporal": "st_adapter"})
    assert model.config.temporal == STAdapterConfig()
    assert all(name.startswith("temporal.") for name in model.info["import"]["missing"])


def vificlip(path, backbone="toy", **more):
    """A file as ViFi-CLIP's training writes it: towers under other names, no token embedding, its settings."""
    state = toy_state(backbone)
    names = {}
    for name, tensor in state.items():
        if name.startswith("visual."):
            names[f"image_encoder.{name.removeprefix('visual.')}"] = tensor
        elif name == "logit_scale":
            names[name] = tensor
        elif name not in ("token_embedding.weight", "attn_mask"):
            names[f"text_encoder.{name}"] = tensor
    names |= {"prompt_learner.complete_text_embeddings": torch.zeros(2, 32, 64), **more}
    torch.save({"model": {f"module.{name}": tensor for name, tensor in names.items()}, "epoch": 3}, path)
    return state


def test_a_vificlip_file_becomes_a_model(tmp_path):
    path = tmp_path / "vifi.pth"
    state = vificlip(path)
    model = open_model(path, TOY)
    own = model.video_clip.backbone.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())
    assert model.config.similarity == "video"
    report = model.info["import"]
    assert report["missing"] == ["clip.token_embedding.weight"]
    assert report["left_over"] == ["prompt_learner.complete_text_embeddings"]
    assert "1 missing, as the backbone has them (clip.token_embedding.weight)" in describe_import(report)
    with pytest.raises(VactkError, match="without CLIP's token embedding: name that CLIP with --backbone"):
        open_model(path)


@pytest.mark.parametrize(
    "name", ["prompt_learner.ctx", "image_encoder.VPT", "text_encoder.transformer.VPT_shallow"]
)
def test_prompts_of_vificlip_are_refused_by_name(tmp_path, name):
    vificlip(tmp_path / "vifi.pth", **{name: torch.zeros(4, 64)})
    with pytest.raises(VactkError, match=f"ViFi-CLIP\\) holds tensors unknown to vactk: {name}"):
        open_model(tmp_path / "vifi.pth", TOY)


def test_settings_beside_weights_are_read_without_their_code(tmp_path, monkeypatch):
    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module = types.ModuleType("yacs.config")
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    torch.save({"model": toy_state(), "config": CfgNode(a=CfgNode(b=1))}, tmp_path / "a.pth")
    monkeypatch.undo()
    assert open_model(tmp_path / "a.pth", TOY).info["import"]["left_over"] == []


def test_a_froster_file_becomes_a_model(tmp_path):
    state = toy_state()
    projectors = {
        f"projector_{side}.{layer}.weight": torch.zeros(64, 64) for side in "vt" for layer in (0, 2)
    }
    names = {f"model.{name}": tensor for name, tensor in state.items()}
    torch.save({"model_state": {**names, **projectors}}, tmp_path / "froster.pth")
    model = open_model(tmp_path / "froster.pth", TOY)
    assert model.config.temporal == NeighbourAttentionConfig()
    assert model.config.similarity == "frames"
    assert model.info["recipe"]["templates"] == "froster"
    assert checkpoint_config(model, {}).data.view_mean == "logits"
    assert model.info["import"]["format"] == "FROSTER"
    assert sorted(model.info["import"]["left_over"]) == sorted(projectors)
    own = model.video_clip.backbone.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in state.items())


def test_run_folders_are_ours(tmp_path):
    from vactk.checkpoints.checkpoint import save_model

    model = new_model(ModelConfig(backbone=BackboneConfig(name="toy")))
    save_model(tmp_path / "model.safetensors", model, towers=(), info={})
    (tmp_path / "config.json").write_text("{}")
    assert not is_foreign(tmp_path)
    assert not is_foreign(tmp_path / "model.safetensors")
