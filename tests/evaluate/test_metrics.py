from __future__ import annotations

import math

import pytest
import torch

from vactk.evaluate.metrics import topk_accuracy


def test_topk_against_sorting():
    torch.manual_seed(0)
    scores, labels = torch.rand(50, 9), torch.randint(9, (50,))
    ranks = scores.argsort(dim=1, descending=True)
    for k in (1, 5, 9):
        hits = sum(int(label) in row[:k].tolist() for row, label in zip(ranks, labels, strict=True))
        assert topk_accuracy(scores, labels, k) == pytest.approx(2.0 * hits)


def test_a_model_that_scores_all_classes_alike_is_not_right():
    assert topk_accuracy(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), 1) == 0.0


def test_videos_without_scores_count_as_wrong():
    assert topk_accuracy(torch.eye(3), torch.arange(3), 1, num_videos=4) == 75.0


def test_no_videos_have_no_accuracy():
    assert math.isnan(topk_accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 1))
