from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vactk.models.losses import contrastive_loss, cross_modal_loss


def naive_contrastive(video, text, labels, scale):
    """KL(target || prediction), row by row and in both directions, as the paper states it."""
    total = 0.0
    size = len(labels)
    for a, b in ((video, text), (text, video)):
        for i in range(size):
            logits = [float(scale * a[i] @ b[j]) for j in range(size)]
            same = [10.0 if labels[i] == labels[j] else 0.0 for j in range(size)]
            log_p = [s - math.log(sum(math.exp(x) for x in same)) for s in same]
            log_q = [x - math.log(sum(math.exp(y) for y in logits)) for x in logits]
            total += sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)) / size
    return total / 2


def test_contrastive_loss_against_the_formula_in_loops():
    torch.manual_seed(0)
    video, text = (F.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    labels = torch.tensor([0, 1, 0, 2, 2, 2])
    loss = contrastive_loss(video, text, labels, torch.tensor(14.0))
    assert float(loss) == pytest.approx(naive_contrastive(video, text, labels, 14.0), rel=1e-5)


def test_contrastive_loss_does_not_depend_on_the_order_of_the_batch():
    video, text = (F.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    labels, order = torch.tensor([0, 1, 0, 2, 2, 2]), torch.randperm(6)
    loss = contrastive_loss(video, text, labels, torch.tensor(5.0))
    again = contrastive_loss(video[order], text[order], labels[order], torch.tensor(5.0))
    torch.testing.assert_close(loss, again)


def test_cross_modal_loss_of_equal_similarities_is_the_log_of_the_classes():
    video = F.normalize(torch.ones(3, 4), dim=-1)
    loss = cross_modal_loss(video, video[:1].repeat(7, 1), torch.tensor([0, 3, 6]), torch.tensor(100.0))
    assert float(loss) == pytest.approx(math.log(7), rel=1e-5)
