"""Recorded random numbers in the place of torch's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch


def feed(patch: pytest.MonkeyPatch, **values: Sequence[float]) -> list[list[float]]:
    """Have `torch.rand`, `torch.randint` and others give `values`, one at each call; what is left of them."""
    lists = []
    for name, given in values.items():
        left = list(given)
        lists.append(left)

        def draw(*args: object, left: list[float] = left, **kwargs: object) -> torch.Tensor:
            size = args[-1] if isinstance(args[-1], tuple) else args
            return torch.tensor(left.pop(0)).broadcast_to(size)

        patch.setattr(torch, name, draw)
    return lists
