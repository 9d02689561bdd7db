"""Losses as functions of embeddings and labels, each a scalar."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

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
    return mean_over_all(F.cross_entropy(logits, labels, reduction="sum"), (labels >= 0).sum())


def masked_word_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the masked words; 0 when there is none. logits (B, L, V), labels (B, L), -100 ignored."""
    return mean_cross_entropy(logits.flatten(0, 1), labels.flatten())


def pair_loss(video: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's own symmetric loss: row i of `video` and row i of `text`, (B, E) of unit norm, belong together."""
    logits = scale * video @ text.T  # (B, B)
    if not len(logits):
        return logits.sum() * 0
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def mean_over_all(total: Tensor, count: Tensor) -> Tensor:
    """What this process adds to a mean over the rows of all processes; 0 where there are no rows. Scalars.

    `total` and `count` are sums over the own rows. The mean over the processes of what comes back, as data
    parallel training takes it of gradients, is the sum of totals over the sum of counts: a process that read
    fewer videos than the others weighs less.
    """
    if not many_processes():
        return total / count.clamp(min=1)
    everywhere = count.clone()
    dist.all_reduce(everywhere)
    return total * dist.get_world_size() / everywhere.clamp(min=1)


def many_processes() -> bool:
    """Whether this process is one of several that work on the same batches."""
    return dist.is_available() and dist.is_initialized()


def gather(x: Tensor) -> Tensor:
    """The rows of all processes in order of their rank, gradients passing back. x (B, ...) -> (sum of B, ...)

    B may differ between processes: videos that cannot be read are missing from a batch.
    """
    if not many_processes():
        return x
    if x.dtype == torch.bool:  # not every backend gathers those
        return gather(x.long()).bool()
    sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    counts = [int(size) for size in sizes]
    padded = torch.cat([x, x.new_zeros(max(counts) - len(x), *x.shape[1:])])
    stacked = _Gather.apply(padded)
    return torch.cat([part[:count] for part, count in zip(stacked, counts, strict=True)])


class _Gather(torch.autograd.Function):
    """x (B, ...) of every process -> (processes, B, ...); every process's gradient comes back to where x is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]
