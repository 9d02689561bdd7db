from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from vactk.report.statistics import confusion_order, mcnemar, wilson


@pytest.mark.parametrize(  # Newcombe, Statistics in Medicine 1998, table I, method 3
    ("right", "total", "low", "high"),
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_wilsons_interval_is_the_published_one(right, total, low, high):
    found = wilson(right, total)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (3, 0), (2, 5), (6, 6), (1, 9)])
def test_mcnemar_counts_the_coins_that_fall_at_least_as_unevenly(one, other):
    falls = [abs(sum(coins) * 2 - one - other) for coins in product((0, 1), repeat=one + other)]
    assert mcnemar(one, other) == pytest.approx(sum(fall >= abs(one - other) for fall in falls) / len(falls))


def test_classes_that_are_confused_stand_together():
    shuffled = np.random.default_rng(0).permutation(12)
    group = np.arange(12)[shuffled] // 4
    counts = np.where(group[:, None] == group[None], 3.0, 0.0)
    groups = group[confusion_order(counts)].tolist()
    assert sum(a != b for a, b in pairwise(groups)) == 2
