"""Embed videos and texts as unit vectors of one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vactk.models.video_clip import pool_frames
from vactk.models.video_model import VideoModel

TEXTS_AT_ONCE = 256


class Texts(NamedTuple):
    """Embedded texts."""

    vectors: Tensor  # (N, E) float32 on the CPU, unit norm
    cut: list[int]  # indices of those longer than the text tower's context


@torch.no_grad()
def embed_texts(model: VideoModel, texts: Sequence[str], device: torch.device) -> Texts:
    """Embed texts; long ones are cut at the end of a sentence, or of a word, to the text tower's context."""
    short = model.backbone.shorten(texts)
    text = model.video_clip.text
    parts = [
        F.normalize(text.encode(text.trim(model.backbone.tokenize(chunk)).to(device)).float(), dim=-1).cpu()
        for chunk in (short[i : i + TEXTS_AT_ONCE] for i in range(0, len(short), TEXTS_AT_ONCE))
    ]
    cut = [index for index, (old, new) in enumerate(zip(texts, short, strict=True)) if old != new]
    return Texts(torch.cat(parts), cut)


@torch.no_grad()
def embed_views(model: VideoModel, views: Tensor) -> Tensor:
    """Return the mean of the views' unit vectors, at unit norm. views (W, V, T, 3, H, W') -> (W, E) float32

    A view's vector is pooled over frames as the model was trained; for `frames` that is CLIP4Clip's meanP.
    """
    frames = model.video_clip.video_features(views.flatten(0, 1)).frames.float()
    vectors = F.normalize(pool_frames(frames, model.config.similarity), dim=-1)
    return F.normalize(vectors.unflatten(0, views.shape[:2]).mean(dim=1), dim=-1)
