"""The records of each training batch: pure arithmetic, so that a run can resume from any step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

Key = tuple[int, int]  # epoch, index of the record: enough to draw the same random crop again


def derive_seed(*numbers: int) -> int:
    """Mix several numbers, such as (seed, epoch, index), into one seed of 63 bits."""
    return int(
        np.random.SeedSequence((len(numbers), *numbers)).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


def num_steps(num_records: int, batch_size: int, epochs: float) -> int:
    """Return the number of batches in `epochs` passes over the records, at least one."""
    return max(1, round(epochs * num_records / batch_size))


class TrainBatches(Sampler[list[Key]]):
    """Endless shuffled passes over the records, split into batches; batch k does not depend on earlier ones.

    A batch may span two passes, so that every record comes once per pass whatever the batch size. With `labels`,
    the classes take turns in rounds of a random order, each with endless passes over its own records. Each batch of
    `batch_size` is split into `micro_batches` (gradient accumulation) of equal shares for `world` processes; the
    share of process `rank` is what is yielded, one list per micro-batch.
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
        labels: Sequence[int] | None = None,
    ) -> None:
        """`labels`: the records' classes, to be drawn equally often."""
        if batch_size % (world * micro_batches):
            raise ValueError(
                f"batch size {batch_size} is not divisible by {world} processes x {micro_batches} micro-batches"
            )
        self.num_records = num_records
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        self.rank = rank
        self.world = world
        self.micro_batches = micro_batches
        classes = sorted(set(labels or ()))
        self._members = [[i for i, own in enumerate(labels or ()) if own == label] for label in classes]
        self._order = lru_cache(maxsize=2 * (len(classes) + 1))(self._shuffled)

    def __len__(self) -> int:
        return len(self.steps) * self.micro_batches

    def __iter__(self) -> Iterator[list[Key]]:
        size = self.batch_size // (self.world * self.micro_batches)
        for step in self.steps:
            for micro_batch in range(self.micro_batches):
                start = step * self.batch_size + (micro_batch * self.world + self.rank) * size
                yield [self._key(position) for position in range(start, start + size)]

    def _key(self, position: int) -> Key:
        if not self._members:
            epoch, offset = divmod(position, self.num_records)
            return epoch, int(self._order(self.num_records, epoch)[offset])
        turn, place = divmod(position, len(self._members))
        number = int(self._order(len(self._members), turn)[place])
        members = self._members[number]
        epoch, offset = divmod(turn, len(members))
        return epoch, members[int(self._order(len(members), epoch, number)[offset])]

    def _shuffled(self, count: int, *parts: int) -> np.ndarray:
        """Return the numbers below `count` in an order that depends on the seed and `parts`."""
        return np.random.default_rng(derive_seed(self.seed, *parts)).permutation(count)
