"""The statistics of a report, as functions of counts and arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959963984540054  # the normal distribution's 97.5 % point: intervals of 95 %
BINS = 10  # of the calibration curve


class Estimate(NamedTuple):
    """A percentage with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(right: int, total: int) -> Estimate:
    """Return right / total in % with Wilson's score interval (Wilson 1927). Raises ValueError for a total of 0."""
    if total < 1:
        raise ValueError("an interval needs at least one video")
    share = right / total
    middle = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2)) / (1 + Z**2 / total)
    low, high = min(middle - half, share), max(middle + half, share)  # against rounding
    return Estimate(100 * share, 100 * max(0.0, low), 100 * min(1.0, high))


def mean_of_shares(counts: Sequence[tuple[int, int]]) -> Estimate:
    """Return the mean of right / total over classes, in %, with an interval from the classes' own by Wilson.

    For independent shares, the distances from the mean to its limits add up as squares (MOVER: Zou and Donner,
    Statistics in Medicine 2008).
    """
    each = [wilson(*count) for count in counts]
    mean = math.fsum(one.value for one in each) / len(each)
    below = math.sqrt(math.fsum((one.value - one.low) ** 2 for one in each)) / len(each)
    above = math.sqrt(math.fsum((one.high - one.value) ** 2 for one in each)) / len(each)
    return Estimate(mean, max(0.0, mean - below), min(100.0, mean + above))


class Bin(NamedTuple):
    """The videos whose answers have a probability within two limits."""

    low: float
    high: float
    num_videos: int
    confidence: float  # mean probability of the answers, in %
    accuracy: float  # of the answers, in %


def calibration(confidence: Sequence[float], right: Sequence[bool]) -> tuple[list[Bin], float]:
    """Return the bins that have videos, and the expected calibration error in % (Guo et al., ICML 2017).

    confidence: the probability of each answer, 0 to 1. Bins have equal widths and include their upper limits.
    """
    values, hits = np.asarray(confidence, float), np.asarray(right, float)
    places = np.clip(np.ceil(values * BINS).astype(int) - 1, 0, BINS - 1)
    bins = [
        Bin(k / BINS, (k + 1) / BINS, int(own.sum()), 100 * values[own].mean(), 100 * hits[own].mean())
        for k in range(BINS)
        if (own := places == k).any()
    ]  # fmt: skip
    error = sum(one.num_videos * abs(one.confidence - one.accuracy) for one in bins) / max(1, len(values))
    return bins, error


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p value of McNemar's exact test: of a fair coin for the videos that differ."""
    differ, fewer = only_first + only_second, min(only_first, only_second)
    tail = term = 1
    for k in range(1, fewer + 1):
        term = term * (differ - k + 1) // k
        tail += term
    return min(1.0, 2 * tail / 2**differ)


def confusion_order(counts: np.ndarray) -> list[int]:
    """Return an order of classes in which those that are confused stand together. counts (C, C): label, answer

    By the second eigenvector of the graph's Laplacian (spectral seriation: Atkins et al., SIAM J. Comput. 1998).
    """
    links = counts + counts.T + 1e-6  # all are linked, if barely
    np.fill_diagonal(links, 0)
    laplacian = np.diag(links.sum(axis=1)) - links
    _, vectors = np.linalg.eigh(laplacian)
    if len(counts) < 3:
        return list(range(len(counts)))
    vector = vectors[:, 1] * (1 if vectors[np.abs(vectors[:, 1]).argmax(), 1] > 0 else -1)
    return [int(i) for i in np.argsort(vector.round(9), kind="stable")]
