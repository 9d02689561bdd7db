"""Zero-shot classifiers: class embeddings from prompts, and scorers that compare videos with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vactk.errors import VactkError
from vactk.models.video_clip import VideoFeatures, pool_frames
from vactk.models.video_model import Heads, VideoModel, unnamed

Scorer = Callable[[VideoFeatures], Tensor]  # features of B views -> logits (B, C)


@torch.no_grad()
def class_embeddings(
    model: VideoModel, words: tuple[str, ...], templates: tuple[str, ...], device: torch.device
) -> Tensor:
    """Return (C, E): the mean over templates of unit text embeddings, at unit norm (CLIP's prompt ensemble)."""
    prompts = [template.format(word) for word in words for template in templates]
    text = model.video_clip.text
    parts = [
        F.normalize(text.encode(text.trim(model.backbone.tokenize(chunk)).to(device)), dim=-1)
        for chunk in (prompts[i : i + 256] for i in range(0, len(prompts), 256))
    ]
    per_class = torch.cat(parts).unflatten(0, (len(words), len(templates)))  # (C, templates, E)
    return F.normalize(per_class.mean(dim=1), dim=-1)


def similarity_scorer(model: VideoModel, classes: Tensor) -> Scorer:
    """Return the scorer by scaled cosine similarity to class embeddings (C, E); see `pool_frames`."""
    scale, similarity = model.video_clip.logit_scale.detach(), model.config.similarity
    return lambda features: scale * pool_frames(features.frames, similarity) @ classes.T


def cosine_scorer(model: VideoModel, classes: Tensor) -> Scorer:
    """Return the scorer by cosine similarity from -1 to 1, unscaled."""
    similarity = model.config.similarity
    return lambda features: pool_frames(features.frames, similarity) @ classes.T


def class_scorers(
    model: VideoModel, classes: tuple[str, ...], embeddings: Tensor, chosen: Sequence[int]
) -> dict[str, Scorer]:
    """Return scorers of the `chosen` of `classes`, whose embeddings are (C, E).

    "similarity" always, and "class_head" where the model's class head was trained on all that are chosen.
    """
    scorers = {"similarity": similarity_scorer(model, embeddings[list(chosen)])}
    head, columns = model.class_head, head_columns(model.heads, classes, chosen)
    if head is not None and columns is not None:
        scorers["class_head"] = lambda features: head(features.pooled)[:, columns]
    return scorers


def check_answer(by: str, heads: Heads, classes: tuple[str, ...], chosen: Sequence[int]) -> None:
    """Raise VactkError when the answer `by` needs a class head that was not trained on all chosen classes."""
    if by != "similarity" and head_columns(heads, classes, chosen) is None:
        raise VactkError(
            f"'{by}' needs a checkpoint whose class head was trained on all of these classes; "
            "'similarity' takes any"
        )


def head_columns(heads: Heads, classes: tuple[str, ...], chosen: Sequence[int]) -> list[int] | None:
    """Return the class head's outputs for the `chosen` of `classes`; None unless it was trained on all of them.

    Classes are matched by name; those of a head that came without names, by their numbers.
    """
    if not heads.class_head:
        return None
    if heads.classes == unnamed(len(classes)):
        return list(chosen)
    outputs = {name: output for output, name in enumerate(heads.classes)}
    columns = [outputs[classes[number]] for number in chosen if classes[number] in outputs]
    return columns if len(columns) == len(chosen) else None
