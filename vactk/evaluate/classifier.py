"""Zero-shot classifiers: class embeddings from prompts, and similarity to them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vactk.models.video_clip import VideoFeatures, pool_frames
from vactk.models.video_model import VideoModel

Scorer = Callable[[VideoFeatures], Tensor]  # features of B views -> logits (B, C)


@torch.no_grad()
def class_embeddings(
    model: VideoModel, words: tuple[str, ...], templates: tuple[str, ...], device: torch.device
) -> Tensor:
    """(C, E) of unit norm: the normalised mean over templates of normalised text embeddings (CLIP's ensemble)."""
    prompts = [template.format(word) for word in words for template in templates]
    text = model.video_clip.text
    parts = [
        F.normalize(text.encode(text.trim(model.backbone.tokenize(chunk)).to(device)), dim=-1)
        for chunk in (prompts[i : i + 256] for i in range(0, len(prompts), 256))
    ]
    per_class = torch.cat(parts).unflatten(0, (len(words), len(templates)))  # (C, templates, E)
    return F.normalize(per_class.mean(dim=1), dim=-1)


def similarity_scorer(model: VideoModel, classes: Tensor) -> Scorer:
    """Logits by the model's own similarity, scaled, to class embeddings (C, E) of unit norm; see `pool_frames`."""
    scale, similarity = model.video_clip.logit_scale.detach(), model.config.similarity
    return lambda features: scale * pool_frames(features.frames, similarity) @ classes.T
