"""Which records make up which training batch: pure arithmetic, so that a run can go on from any step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

Key = tuple[int, int]  # epoch, index of the record: enough to draw the same random crop again


def derive_seed(*parts: int) -> int:
    """A seed for one purpose out of several numbers, such as (seed, epoch, index): 63 bits, well mixed."""
    return int(np.random.SeedSequence((len(parts), *parts)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def num_steps(num_records: int, batch_size: int, epochs: float) -> int:
    """Batches in `epochs` passes over the records, at least one."""
    return max(1, round(epochs * num_records / batch_size))


class TrainBatches(Sampler[list[Key]]):
    """Endless shuffled passes over the records, cut into batches; batch k is the same however one got there.

    A batch may span two passes, so that every record comes once a pass whatever the batch size. Of each
    batch of `batch_size`, this process takes the `rank`-th of `world` equal shares, in `micro_batches` one
    after another (gradient accumulation): the yielded lists.
    """

    def __init__(
        self,
        num_records: int,
        batch_size: int,
        *,
        seed: int,
        steps: range,
        rank: int = 0,
        world: int = 1,
        micro_batches: int = 1,
    ) -> None:
        if batch_size % (world * micro_batches):
            raise ValueError(
                f"batch_size {batch_size} is not divisible by {world} processes x {micro_batches} micro-batches"
            )
        self.num_records = num_records
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        self.rank = rank
        self.world = world
        self.micro_batches = micro_batches
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return len(self.steps) * self.micro_batches

    def __iter__(self) -> Iterator[list[Key]]:
        size = self.batch_size // (self.world * self.micro_batches)
        for step in self.steps:
            for number in range(self.micro_batches):
                start = step * self.batch_size + (number * self.world + self.rank) * size
                yield [self._key(position) for position in range(start, start + size)]

    def _key(self, position: int) -> Key:
        epoch, place = divmod(position, self.num_records)
        return epoch, int(self._order(epoch)[place])

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng(derive_seed(self.seed, epoch)).permutation(self.num_records)
