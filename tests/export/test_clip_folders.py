from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import vactk.torchvision_ops  # noqa: F401

# isort: split
import open_clip

from vactk.checkpoints.load import open_model
from vactk.errors import VactkError
from vactk.export.fold_to_clip import has_plain_form, plain_clip
from vactk.export.formats import ExportConfig, export_model
from vactk.models.backbone import BackboneConfig, load_backbone
from vactk.models.temporal.adapters import FrameAdapterConfig, STAdapterConfig, TEDAdapterConfig
from vactk.models.temporal.block import TemporalBlock
from vactk.models.temporal.frame_attention import NeighbourAttention, NeighbourAttentionConfig
from vactk.models.text_tower import TextAdapterConfig

OPEN_CLIP, HUGGINGFACE = ExportConfig(format="open_clip"), ExportConfig(format="huggingface")


def test_ours_to_open_clip_to_ours_is_bit_equal(small_model, inference, samples, tmp_path):
    model = small_model(temporal=NeighbourAttentionConfig())
    exported = export_model(model, tmp_path / "out", OPEN_CLIP, inference(), samples)
    left_out, told = exported.notes
    assert left_out == "attention over neighbouring frames has no weights: a plain CLIP sees frames apart"
    assert told.startswith("the mean of open_clip's embeddings of frames has a cosine of 0.99")
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'out'}")
    ours = open_model(tmp_path / "out")
    own = model.video_clip.backbone.state_dict()
    for state in (theirs.state_dict(), ours.video_clip.backbone.state_dict()):
        assert state.keys() == own.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in own.items())
    assert ours.backbone.mean == (0.5, 0.4, 0.3)
    assert ours.config.backbone.quick_gelu is True
    assert torch.equal(
        theirs.encode_image(torch.ones(1, 3, 32, 32)),
        model.video_clip.backbone.encode_image(torch.ones(1, 3, 32, 32)),
    )


@pytest.mark.parametrize("config", [OPEN_CLIP, HUGGINGFACE], ids=["open_clip", "huggingface"])
def test_what_is_lost_without_attention_between_frames_is_told(
    small_model, inference, samples, tmp_path, config
):
    model = small_model(temporal=NeighbourAttentionConfig())
    (written,) = export_model(model, tmp_path / "out", config, inference(), samples).files
    (views,) = samples.videos
    with torch.no_grad():
        expected = model.video_clip.encode_video(views)[0]
        apart = torch.stack([model.video_clip.backbone.encode_image(frame[None])[0] for frame in views[0]])
    cosine = float(torch.cosine_similarity(expected, apart.mean(dim=0), dim=0))
    assert written.frames_apart.mean == written.frames_apart.lowest == pytest.approx(cosine, abs=1e-5)
    assert cosine < 0.9999
    assert (written.frames_apart.on, written.frames_apart.num_videos) == ("real", 1)
    plain = export_model(small_model(), tmp_path / "plain", config, inference(), samples)
    assert plain.files[0].frames_apart.is_exact
    assert not any("cosine" in note for note in plain.notes)


def test_the_card_has_the_results_of_what_transformers_reads(small_model, inference, samples, tmp_path):
    model, own = small_model(temporal=NeighbourAttentionConfig()), inference()
    own.source["results"] = [{"protocol": "shapes/seen", "top1": 84.7}]
    measured = []

    def measure(plain):
        measured.append(plain)
        return [{"protocol": "shapes/seen", "top1": 61.2}]

    export_model(model, tmp_path / "out", HUGGINGFACE, own, samples, measure=measure)
    card = (tmp_path / "out" / "README.md").read_text()
    theirs, ours = card.split("As vactk reads it, with the video model's attention between frames:")
    assert "top1 61.20" in theirs.split("As transformers reads it, a CLIP of single frames")[1]
    assert "top1 84.70" in ours
    assert not any(isinstance(block, NeighbourAttention) for block in measured[0].video_clip.temporal)
    export_model(model, tmp_path / "unknown", HUGGINGFACE, own, samples)
    assert "Not measured: `vactk export --dataset NAME` does." in (tmp_path / "unknown/README.md").read_text()
    export_model(small_model(), tmp_path / "plain", HUGGINGFACE, own, samples, measure=measure)
    assert "As transformers reads it" not in (tmp_path / "plain/README.md").read_text()
    assert len(measured) == 1


def test_adapters_that_do_not_fold_are_named(small_model, inference, samples, tmp_path):
    model = small_model(
        temporal=TEDAdapterConfig(width=4, layers=(1,)), text_adapter=TextAdapterConfig(layers=1, width=4)
    )
    with pytest.raises(
        VactkError, match=r"ted_adapter in vision blocks 1; adapters in text blocks 1: these do not fold"
    ):
        export_model(model, tmp_path / "out", OPEN_CLIP, inference(), samples)
    assert list(tmp_path.iterdir()) == []


def test_adapters_that_change_nothing_are_left_out(small_folder, inference):
    from vactk.models.video_model import ModelConfig, new_model

    backbone = BackboneConfig(name=str(small_folder))
    for temporal in (TEDAdapterConfig(width=4, placement="both"), STAdapterConfig(width=4)):
        model = new_model(
            ModelConfig(
                backbone=backbone,
                temporal=temporal,
                text_adapter=TextAdapterConfig(layers=2, width=4),
                frame_adapter=FrameAdapterConfig(enabled=True),
            )
        )
        plain = plain_clip(model)
        assert plain.notes == ("added modules that change nothing are left out",)
        assert all(
            torch.equal(plain.state[name], t) for name, t in model.video_clip.backbone.state_dict().items()
        )


def test_a_module_that_changes_attention_alone_is_not_dropped(small_model):
    class Sharpened(TemporalBlock):
        def attention(self, block, x, num_frames, num_queries):
            return 1.5 * super().attention(block, x, num_frames, num_queries)

    model = small_model()
    assert has_plain_form(model)
    model.video_clip.temporal[1] = Sharpened()
    assert not has_plain_form(model)
    with pytest.raises(VactkError, match="in vision blocks 1: these do not fold"):
        plain_clip(model)


@torch.no_grad()
def test_the_frame_adapter_folds_into_the_projection(small_model, inference, samples, tmp_path):
    model = small_model(frame_adapter=FrameAdapterConfig(enabled=True, width=6))
    exported = export_model(model, tmp_path / "out", OPEN_CLIP, inference(), samples)
    assert any("folded" in note for note in exported.notes)
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    pictures = torch.randn(4, 3, 32, 32)
    expected = model.video_clip.encode_video(pictures[:, None])
    torch.testing.assert_close(theirs.encode_image(pictures), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.video_clip.backbone.encode_image(pictures), expected, atol=1e-2)


def test_transformers_reads_a_plain_model_and_its_tokenizer(small_model, inference, samples, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = small_model(temporal=NeighbourAttentionConfig())
    exported = export_model(model, tmp_path / "out", HUGGINGFACE, inference(), samples)
    assert exported.files[0].max_abs_diff == 0.0
    theirs = transformers.CLIPModel.from_pretrained(tmp_path / "out").eval()
    texts = ["a red star, moving left!", "Über die Straße 123", "someone's dog"]
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "out")
    ours = model.backbone.tokenize(texts)
    found = tokenizer(texts)["input_ids"]
    assert found == [row[: row.argmax() + 1].tolist() for row in ours]
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        image = theirs.visual_projection(theirs.vision_model(pixel_values=pictures).pooler_output)
        text = theirs.text_projection(theirs.text_model(input_ids=ours).pooler_output)
        torch.testing.assert_close(image, model.video_clip.backbone.encode_image(pictures))
        torch.testing.assert_close(text, model.video_clip.backbone.encode_text(ours))
    assert torch.equal(theirs.logit_scale, model.video_clip.backbone.logit_scale)


def test_a_plain_folder_remembers_what_of_it_is_vactks(small_model, inference, samples, tmp_path):
    model = small_model(temporal=NeighbourAttentionConfig(window=2), similarity="frames")
    export_model(model, tmp_path / "out", HUGGINGFACE, inference(), samples)
    again = open_model(tmp_path / "out")
    assert again.config.temporal == NeighbourAttentionConfig(window=2)
    assert again.config.similarity == "frames"
    own = model.video_clip.backbone.state_dict()
    assert all(
        torch.equal(own[name], tensor) for name, tensor in again.video_clip.backbone.state_dict().items()
    )


def test_a_model_with_adapters_is_a_whole_checkpoint(small_model, inference, samples, tmp_path):
    model = small_model(temporal=TEDAdapterConfig(width=4), classes=("a", "b"))
    exported = export_model(model, tmp_path / "out", HUGGINGFACE, inference(), samples)
    assert exported.files[0].max_abs_diff == 0.0
    again = open_model(tmp_path / "out")
    assert again.config.temporal == model.config.temporal
    assert again.heads == model.heads
    own = model.module_dict().state_dict()
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored.keys() == own.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in own.items())


def test_the_model_card(small_model, inference, samples, tmp_path):
    from dataclasses import replace

    asked = inference()
    result = {
        "protocol": "hmdb51/ep2",
        "top1": 51.25,
        "top5": 70.0,
        "hash": "abc123",
        "num_videos": 6766,
        "frames": 8,
    }
    source = {**asked.source, "name": "my run", "sha256": "f00d", "results": (result,)}
    asked = replace(asked, source=source)
    export_model(small_model(), tmp_path / "out", HUGGINGFACE, asked, samples)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "# my run" in card
    assert "| hmdb51/ep2 | top1 51.25, top5 70.00 | num_videos 6766, frames 8 | abc123 |" in card
    assert "dataset: shapes" in card
    assert "f00d" in card
    manifest = json.loads((tmp_path / "out" / "export.json").read_text())
    assert manifest["files"][0]["sha256"] in card


def test_open_clip_folders_serve_as_backbones(small_folder):
    backbone = load_backbone(BackboneConfig(name=str(small_folder)))
    assert backbone.image_size == 32
    assert backbone.config.name == str(small_folder)
    with pytest.raises(VactkError, match="holds weights already, got --pretrained"):
        load_backbone(BackboneConfig(name=str(small_folder), pretrained="x"))
