"""Losses as functions of embeddings and labels, each a scalar."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vactk.distributed import distributed_mean

POSITIVE_LOGIT = 10.0  # the weight of a match in the target distribution: M2-CLIP's published code


def contrastive_loss(video: Tensor, text: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """(KL_video + KL_text) / 2 of a batch in which every pair of equal labels matches (M2-CLIP, section 3.3).

    video (B, E) and text (B, E) of unit norm, row i of both with label labels[i]; scale a scalar.
    KL = 1/B sum_i KL(softmax(10 [y_i = y_j]) || softmax(scale v_i . t_j)).
    """
    logits = scale * video @ text.T  # (B, B)
    if not len(logits):
        return logits.sum() * 0
    same = (labels[:, None] == labels[None, :]).to(logits.dtype)
    target = F.softmax(POSITIVE_LOGIT * same, dim=-1)
    by_video = F.kl_div(F.log_softmax(logits, dim=-1), target, reduction="batchmean")
    by_text = F.kl_div(F.log_softmax(logits.T, dim=-1), target, reduction="batchmean")
    return (by_video + by_text) / 2


def cross_modal_loss(
    video: Tensor, class_text: Tensor, labels: Tensor, scale: Tensor, *, doubled_softmax: bool = False
) -> Tensor:
    """Cross entropy of a video's similarity to every class. video (B, E), class_text (C, E), of unit norm.

    M2-CLIP's published code takes the softmax twice, which keeps the loss of C classes above
    log(e + C - 1) - 1: `doubled_softmax` reproduces that. The mean is over the videos of all processes.
    """
    logits = scale * video @ class_text.T  # (B, C)
    return mean_cross_entropy(logits.softmax(dim=-1) if doubled_softmax else logits, labels)


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the rows of all processes, see `mean_over_all`. logits (N, C), labels (N,), -100 ignored."""
    return distributed_mean(F.cross_entropy(logits, labels, reduction="sum"), (labels >= 0).sum())


def masked_word_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the masked words; 0 when there is none. logits (B, L, V), labels (B, L), -100 ignored."""
    return mean_cross_entropy(logits.flatten(0, 1), labels.flatten())


def clip_loss(video: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's own symmetric loss: row i of `video` and row i of `text`, (B, E) of unit norm, belong together."""
    logits = scale * video @ text.T  # (B, B)
    if not len(logits):
        return logits.sum() * 0
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
