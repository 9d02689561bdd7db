from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from vactk.errors import VactkError
from vactk.models.backbone import BackboneConfig, load_backbone
from vactk.models.toy import initial_embedding, save_toy, toy_config, toy_state_dict
from vactk.weights.torch_file import read_state_dict

SMALL = {  # in the layout of OpenAI's files, heads of 64 channels
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 64},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


def small_clip(quick_gelu=False):
    import open_clip

    torch.manual_seed(0)
    return open_clip.CLIP(**SMALL, quick_gelu=quick_gelu).eval()


def test_the_toy_is_complete_and_named_the_same_everywhere():
    backbone = load_backbone(BackboneConfig(name="toy"))
    assert backbone.config == BackboneConfig(name="toy", pretrained="toy", quick_gelu=False)
    assert backbone.image_size == toy_config()["model_cfg"]["vision_cfg"]["image_size"]
    assert torch.equal(backbone.clip.token_embedding.weight, toy_state_dict()["token_embedding.weight"])


def test_the_toys_file_keeps_what_was_trained(tmp_path):
    state = {"token_embedding.weight": initial_embedding(), "ln_final.weight": torch.randn(64).half().float()}
    state["token_embedding.weight"][7] = torch.arange(64.0)
    save_toy(tmp_path / "toy.safetensors", state)
    read = toy_state_dict(tmp_path / "toy.safetensors")
    assert all(torch.equal(read[name], state[name]) for name in state)
    assert (tmp_path / "toy.safetensors").stat().st_size < 2000


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_weights_file_tells_its_own_architecture(tmp_path, suffix, prefix):
    clip = small_clip()
    state = {prefix + name: tensor.contiguous() for name, tensor in clip.state_dict().items()}
    path = tmp_path / f"clip{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": state}, path)
    else:
        save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    if prefix == "module." and suffix == ".safetensors":
        pytest.skip("data-parallel prefixes occur in pickled checkpoints")
    backbone = load_backbone(BackboneConfig(name=str(path)))
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(backbone.clip.eval().encode_image(image), clip.encode_image(image))
    assert backbone.config.quick_gelu is False
    again = load_backbone(backbone.config)
    assert torch.equal(again.clip.visual.proj, clip.visual.proj)


def test_quick_gelu_is_a_choice_for_files_that_do_not_say(tmp_path):
    clip = small_clip(quick_gelu=True)
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    backbone = load_backbone(BackboneConfig(name=str(tmp_path / "clip.pt"), quick_gelu=True))
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(backbone.clip.eval().encode_image(image), clip.encode_image(image))


@pytest.mark.parametrize("name", ["openai_clip_m2.pt", "openai_clip_ov.pt"])
def test_openais_archives_bring_quick_gelu(reference, name):
    path = reference / "containers" / name
    backbone = load_backbone(BackboneConfig(name=str(path)))
    assert backbone.config.quick_gelu is True
    stored = read_state_dict(path)
    assert torch.equal(backbone.clip.visual.proj, stored["visual.proj"].float())
    assert type(backbone.clip.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


def test_named_architectures_take_local_weights_and_other_files_are_refused(tmp_path):
    import open_clip

    big = open_clip.create_model("ViT-S-32-alt")
    save_file({n: t.clone().contiguous() for n, t in big.state_dict().items()}, tmp_path / "s.safetensors")
    backbone = load_backbone(BackboneConfig(name="ViT-S-32-alt", pretrained=str(tmp_path / "s.safetensors")))
    assert torch.equal(backbone.clip.visual.proj, big.visual.proj)
    torch.save(small_clip().state_dict(), tmp_path / "small.pt")
    with pytest.raises(VactkError, match=r"small\.pt' does not fit the model; missing: .* and \d+ more"):
        load_backbone(BackboneConfig(name="ViT-S-32-alt", pretrained=str(tmp_path / "small.pt")))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BackboneConfig(name="ViT-B-61"), "unknown backbone 'ViT-B-61'; did you mean 'ViT-B-16'"),
        (BackboneConfig(name="ViT-B-16", pretrained="openia"), "did you mean 'openai'"),
        (BackboneConfig(name="RN50"), "its vision tower is a ResNet"),
        (BackboneConfig(name="ViT-B-16-SigLIP"), "its vision tower comes from timm"),
        (BackboneConfig(name="coca_ViT-B-32"), "it is a captioning model"),
        (BackboneConfig(name="roberta-ViT-B-32"), "its text tower comes from Hugging Face"),
        (BackboneConfig(name="absent.safetensors"), r"there is no file 'absent\.safetensors'"),
        (BackboneConfig(name="toy", pretrained="openai"), "brings its own weights"),
    ],
)
def test_backbones_that_cannot_be_are_refused(config, message):
    with pytest.raises(VactkError, match=message):
        load_backbone(config)


def test_a_file_in_another_layout_is_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(
        VactkError, match=r"not in the layout of OpenAI's CLIP .*--backbone NAME --pretrained FILE"
    ):
        load_backbone(BackboneConfig(name=str(tmp_path / "other.safetensors")))


def test_weights_that_cannot_be_downloaded_say_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no retries: the answer at once
    with pytest.raises(VactkError, match=r"cannot be downloaded .*--pretrained FILE; --backbone toy is here"):
        load_backbone(BackboneConfig(name="ViT-B-16", pretrained="openai"))


def test_architecture_alone_needs_no_weights():
    backbone = load_backbone(BackboneConfig(name="ViT-B-32-quickgelu", pretrained="openai"), weights=False)
    assert backbone.config == BackboneConfig(name="ViT-B-32-quickgelu", pretrained="openai", quick_gelu=True)
