"""The batches of this process: all processes wait for theirs together, and the time that takes is measured."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from vactk.data.batch_sampler import TrainBatches
from vactk.data.records import Record
from vactk.data.video_dataset import Batch, VideoDataset, train_loader
from vactk.distributed import Accelerator, gather_object, on_any_process
from vactk.interrupt import Stopped
from vactk.train.recipe import RunConfig

UNEVEN = (
    1.5  # ratio of the largest class to the smallest above which run.balance=auto draws them equally often
)


def drawn_equally(records: Sequence[Record], balance: str) -> list[int] | None:
    """Return the records' classes where `balance` draws them equally often, None where it does not."""
    labels = [record.label for record in records if record.label is not None]
    counts = Counter(labels).values()
    uneven = bool(labels) and max(counts) > UNEVEN * min(counts)
    return (
        labels
        if len(labels) == len(records) and (balance == "always" or (balance == "auto" and uneven))
        else None
    )


@dataclass
class Throughput:
    """Time of this process's steps, and the videos of all processes in it."""

    steps_s: float = 0.0
    waiting_s: float = 0.0  # share of steps_s spent waiting for data
    num_videos: int = 0

    def rates(self) -> dict[str, float]:
        """Return videos per second, and the share of the time spent waiting for data."""
        seconds = max(self.steps_s, 1e-9)
        return {"videos_per_s": self.num_videos / seconds, "data_wait": self.waiting_s / seconds}


class BatchFeed:
    """Reads a run's training batches, from any step on."""

    def __init__(self, dataset: VideoDataset, run: RunConfig, accelerator: Accelerator) -> None:
        self.dataset = dataset
        self.run = run
        self.accelerator = accelerator
        self.labels = drawn_equally(dataset.records, run.balance)
        self.throughput = Throughput()
        self.notes: Counter[str] = Counter()  # what had to be chosen in reading videos, and how often

    def batches(self, steps: range, micro_batches: int) -> Generator[Batch, None, None]:
        """Yield the micro-batches of `steps`. Close it: its workers may be at work on a video that hangs.

        Raises Stopped on all processes where one of them has received a signal.
        """
        sampler = TrainBatches(
            len(self.dataset),
            self.run.batch_size,
            seed=self.run.seed,
            steps=steps,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            micro_batches=micro_batches,
            labels=self.labels,
        )
        with contextlib.closing(iter(train_loader(self.dataset, sampler))) as batches:
            for _ in range(len(sampler)):
                yield self._next(batches)

    def note_lines(self) -> list[str]:
        """Return what had to be chosen in reading videos, on all processes. All must call it."""
        notes: Counter[str] = sum(gather_object([self.notes]), Counter())
        read = f"of the {self.throughput.num_videos:,} videos read for training"
        return [f"{count:,} {read} {note}" for note, count in sorted(notes.items())]

    def _next(self, batches: Iterator[Batch]) -> Batch:
        started = time.perf_counter()
        batch = None
        with contextlib.suppress(Stopped):
            batch = next(batches)
        self.throughput.waiting_s += time.perf_counter() - started
        if on_any_process(batch is None, self.accelerator) or batch is None:
            raise Stopped
        self.throughput.num_videos += len(batch.indices) * self.accelerator.num_processes
        self.notes.update(batch.notes)
        return batch
