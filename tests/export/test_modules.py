from __future__ import annotations

import pytest
import torch

from vactk.export.modules import (
    Classifier,
    GatheredTEDAdapter,
    PaddedNeighbourAttention,
    TextEncoder,
    VideoEncoder,
)
from vactk.models.temporal.adapters import FrameAdapterConfig, STAdapterConfig, TEDAdapter, TEDAdapterConfig
from vactk.models.temporal.frame_attention import NeighbourAttention, NeighbourAttentionConfig
from vactk.models.text_tower import TextAdapterConfig


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_padded_attention_is_neighbour_attention(small_model, window, zeros):
    block = small_model().video_clip.vision.blocks[0]
    x = torch.randn(2 * 5, 6, 32)
    ours, padded = NeighbourAttention(window, zeros=zeros), PaddedNeighbourAttention(window, zeros=zeros)
    for num_frames in (1, 2, 5, 10):
        for num_queries in (1, 6):
            torch.testing.assert_close(
                padded.attention(block, x, num_frames, num_queries),
                ours.attention(block, x, num_frames, num_queries),
            )


def test_gathered_adapter_is_the_ted_adapter():
    adapter = TEDAdapter(16, 4, (2, 3))
    gathered = GatheredTEDAdapter(16, 4, (2, 3))
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn_like(parameter))
    gathered.load_state_dict(adapter.state_dict())
    for num_frames in (1, 2, 3, 6):
        for tokens in (7, 1):
            x = torch.randn(6, tokens, 16)
            torch.testing.assert_close(gathered(x, num_frames), adapter(x, num_frames))


MODULES = {
    "none": {},
    "zeros": {"temporal": NeighbourAttentionConfig()},
    "masked": {"temporal": NeighbourAttentionConfig(window=2, ends="masked")},
    "ted": {"temporal": TEDAdapterConfig(width=4, placement="both")},
    "st": {"temporal": STAdapterConfig(width=4), "frame_adapter": FrameAdapterConfig(enabled=True)},
}


@pytest.mark.parametrize("name", MODULES)
@torch.no_grad()
def test_the_video_encoder_gives_what_the_model_gives_and_copies_no_weights(small_model, name):
    model = small_model(**MODULES[name])
    encoder = VideoEncoder(model.video_clip, "video").eval()
    for num_frames in (1, 2, 7):
        video = torch.randn(2, num_frames, 3, 32, 32)
        expected = torch.nn.functional.normalize(model.video_clip.encode_video(video), dim=-1)
        torch.testing.assert_close(encoder(video), expected)
    own = {parameter.data_ptr() for parameter in model.module_dict().parameters()}
    assert {parameter.data_ptr() for parameter in encoder.parameters()} <= own
    assert not any("token_embedding" in name for name, _ in encoder.named_parameters())


@torch.no_grad()
def test_the_text_encoder_takes_texts_of_any_length(small_model):
    model = small_model(text_adapter=TextAdapterConfig(layers=2, width=4, placement="both"))
    encoder = TextEncoder(model.video_clip).eval()
    tokens = model.backbone.tokenize(["a dog", "a red star moving left"])
    expected = torch.nn.functional.normalize(model.video_clip.encode_text(tokens), dim=-1)
    for length in (8, 12, 16):
        torch.testing.assert_close(encoder(tokens[:, :length]), expected)
    assert not any("visual" in name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize("answer", ["similarity", "class_head", "ensemble"])
@torch.no_grad()
def test_the_classifier_answers_as_it_was_asked_to(small_model, answer):
    model = small_model(classes=("a", "b", "c"))
    classes = torch.nn.functional.normalize(torch.randn(3, 24), dim=-1)
    video = torch.randn(2, 3, 3, 32, 32)
    logits, probabilities = Classifier(model.video_clip, "video", classes, answer, model.class_head).eval()(
        video
    )
    features = model.video_clip.video_features(video)
    similar = (
        model.video_clip.logit_scale
        * torch.nn.functional.normalize(features.frames.mean(1), dim=-1)
        @ classes.T
    )
    told = model.class_head(features.pooled).softmax(-1)
    expected = {
        "similarity": similar.softmax(-1),
        "class_head": told,
        "ensemble": (similar.softmax(-1) + told) / 2,
    }[answer]
    torch.testing.assert_close(probabilities, expected)
    torch.testing.assert_close(logits.softmax(-1), expected)
