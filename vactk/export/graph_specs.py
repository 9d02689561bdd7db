"""The graphs that can be exported of a model, and the inputs they are compared on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vactk.errors import VactkError
from vactk.export.metadata import (
    InferenceSpec,
    Labels,
    general_metadata,
    label_metadata,
    text_metadata,
    video_metadata,
)
from vactk.export.modules import Classifier, TextEncoder, VideoEncoder
from vactk.export.torch_files import Axis, GraphSpec
from vactk.export.verify import Case
from vactk.models.video_clip import pool_frames
from vactk.models.video_model import VideoModel

VIDEO, TEXT, CLASSIFIER = "video_encoder", "text_encoder", "classifier"
ENCODERS = {"video": VIDEO, "text": TEXT, "classifier": CLASSIFIER}
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Real inputs to compare on."""

    videos: Sequence[Tensor] = ()  # views (V, T, 3, H, W), as the model takes them
    texts: Sequence[str] = ()


def build_graph_specs(
    model: VideoModel, inference: InferenceSpec, *, wanted: Sequence[str] = (), static_frames: bool = False
) -> list[GraphSpec]:
    """Build the graphs called `wanted`, by default all of a model: a classifier needs labels.

    With `static_frames` they take exactly `inference.data.num_frames`. Raises VactkError for one that cannot
    be.
    """
    names = wanted or ["video", "text", *(["classifier"] if inference.labels else [])]
    refuse_without_labels(names, inference.labels)
    builders: Mapping[str, Any] = {"video": _video, "text": _text, "classifier": _classifier}
    return [builders[name](model, inference, static_frames) for name in dict.fromkeys(names)]


def refuse_without_labels(names: Sequence[str], labels: Labels | None) -> None:
    """Raises VactkError when a classifier is among `names` and there are no labels."""
    if "classifier" in names and labels is None:
        raise VactkError("a classifier needs classes: name them with --labels")


def _video(model: VideoModel, inference: InferenceSpec, static: bool) -> GraphSpec:
    example, axes, metadata = _video_input(model, inference, static)
    module = VideoEncoder(model.video_clip, model.config.similarity).eval()
    metadata |= {
        "part": VIDEO,
        "output": "video_embedding: its dot product with a text_embedding is the similarity",
    }

    def reference(video: Tensor) -> tuple[Tensor, ...]:
        return (pool_frames(model.video_clip.video_features(video).frames, model.config.similarity),)

    return GraphSpec(VIDEO, module, "video", ("video_embedding",), example, axes, metadata, reference)


def _classifier(model: VideoModel, inference: InferenceSpec, static: bool) -> GraphSpec:
    labels = inference.labels
    assert labels is not None
    if inference.answer != "similarity" and (model.class_head is None or not model.heads.knows(labels.names)):
        raise VactkError(
            f"--by {inference.answer} needs a checkpoint with a class head for exactly these classes; "
            "--by similarity takes any"
        )
    if inference.answer == "ensemble" and inference.data.view_mean == "logits":
        raise VactkError("--by ensemble is a mean of probabilities, and this recipe's view_mean is logits")
    example, axes, metadata = _video_input(model, inference, static)
    module = Classifier(
        model.video_clip, model.config.similarity, labels.embeddings, inference.answer, model.class_head
    ).eval()
    metadata |= {"part": CLASSIFIER, "output": "logits and probabilities: batch x labels"}
    metadata |= label_metadata(inference, labels)
    reference = partial(_classify, model, labels.embeddings, inference.answer)
    return GraphSpec(
        CLASSIFIER, module, "video", ("logits", "probabilities"), example, axes, metadata, reference
    )


def _classify(model: VideoModel, classes: Tensor, answer: str, video: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and probabilities as evaluation computes them."""
    features = model.video_clip.video_features(video)
    similar = model.video_clip.logit_scale * pool_frames(features.frames, model.config.similarity) @ classes.T
    if answer == "similarity":
        return similar, similar.softmax(dim=-1)
    assert model.class_head is not None
    by_head = model.class_head(features.pooled)
    if answer == "class_head":
        return by_head, by_head.softmax(dim=-1)
    both = (similar.softmax(dim=-1) + by_head.softmax(dim=-1)) / 2
    return both.log(), both


def _video_input(
    model: VideoModel, inference: InferenceSpec, static: bool
) -> tuple[Tensor, dict[int, Axis], dict[str, Any]]:
    num_frames, size = inference.data.num_frames, model.backbone.image_size
    # other lengths than 1 in the example, which would be taken for a constant
    example = _noise(2, num_frames if static else max(2, num_frames), 3, size, size)
    axes = {0: Axis("batch")} if static else {0: Axis("batch"), 1: Axis("frames")}
    metadata = general_metadata(model, inference) | video_metadata(
        model, inference, num_frames if static else None
    )
    return example, axes, metadata


def _text(model: VideoModel, inference: InferenceSpec, static: bool) -> GraphSpec:
    length = model.video_clip.text.context_length
    module = TextEncoder(model.video_clip).eval()
    axes = {0: Axis("batch")}
    if module.is_causal:
        axes[1] = Axis("length", 2, length)
    example = model.backbone.tokenize(["a photo of something", "a video of something else"])
    if module.is_causal and length > 8:  # not the whole context, which would be taken for a constant
        example = _random_tokens(model, 2, 8)
    metadata = general_metadata(model, inference) | text_metadata(model, length, any_length=module.is_causal)
    metadata |= {"part": TEXT, "output": "text_embedding: of unit norm"}

    def reference(tokens: Tensor) -> tuple[Tensor, ...]:
        return (F.normalize(model.video_clip.encode_text(tokens), dim=-1),)

    return GraphSpec(TEXT, module, "tokens", ("text_embedding",), example, axes, metadata, reference)


def cases_for(graph: GraphSpec, model: VideoModel, samples: Samples) -> list[Case]:
    """Random inputs of several lengths, and the real ones."""
    if graph.input == "tokens":
        return _text_cases(graph, model, samples)
    num_frames, size = graph.example.shape[1], graph.example.shape[-1]
    shapes = [(1, num_frames), (3, num_frames)]
    if 1 in graph.axes:
        shapes += [(1, 1), (2, 2), (2, num_frames + 1), (1, 2 * num_frames)]
    random = [Case("random", _noise(b, t, 3, size, size, seed=i + 1)) for i, (b, t) in enumerate(shapes)]
    return random + [Case("real", views) for views in samples.videos]


def _text_cases(graph: GraphSpec, model: VideoModel, samples: Samples) -> list[Case]:
    context = model.video_clip.text.context_length
    lengths = {2, min(9, context), context} if 1 in graph.axes else {context}
    random = [
        Case("random", _random_tokens(model, batch, length)) for length in sorted(lengths) for batch in (1, 3)
    ]
    texts = list(samples.texts)[:64]
    return random + ([Case("real", model.backbone.tokenize(texts))] if texts else [])


def _random_tokens(model: VideoModel, batch: int, length: int) -> Tensor:
    """Random words with a start and an end, each text of another length. (B, L)"""
    highest = model.video_clip.text.vocab_size - 1  # ends a text, and is what the tower pools
    generator = torch.Generator().manual_seed(SEED + length)
    tokens = torch.randint(1, max(2, highest - 1), (batch, length), generator=generator)
    for row in range(batch):
        end = max(1, length - 1 - row)
        tokens[row, end] = highest
        tokens[row, end + 1 :] = 0
    return tokens


def _noise(*shape: int, seed: int = SEED) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
