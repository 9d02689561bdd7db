"""Forward and backward passes over the micro-batches of a step, at the weights and at interpolated ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vactk.data.batch_sampler import derive_seed
from vactk.data.video_dataset import Batch, ReadError
from vactk.distributed import Accelerator
from vactk.train.interpolated_weights import Anchor
from vactk.train.recipe import Recipe


@dataclass(frozen=True)
class BatchLosses:
    """The losses of a batch, whose gradients the parameters hold."""

    means: dict[str, float]  # losses and metrics, over micro-batches and processes
    alpha: float | None  # share of the original weights in the interpolated pass; None: there was none
    places: list[int]  # this process's videos, as positions in the records
    failures: list[ReadError]  # on this process
    any_failures: bool  # on any process


class ForwardBackward:
    """Runs the passes of a step. Everything random in them depends on the seed, the step and the videos alone."""

    def __init__(
        self,
        task: nn.Module,
        accelerator: Accelerator,
        recipe: Recipe,
        anchor: Anchor | None,
        image_size: int,
    ) -> None:
        """`task` as the accelerator prepared it; `anchor` holds the original weights of the interpolated pass."""
        self.task = task
        self.accelerator = accelerator
        self.seed = recipe.run.seed
        self.interpolated = recipe.interpolated
        self.anchor = anchor
        self.blank_shape = (1, recipe.data.num_frames, 3, image_size, image_size)

    def run(self, step: int, batches: Iterator[Batch], micro_batches: int) -> BatchLosses:
        """Accumulate the gradients of one batch, taken from `batches` in `micro_batches`."""
        sums: dict[str, Tensor] = {}
        places: list[int] = []
        failures: list[ReadError] = []
        alpha = None
        if self.anchor is not None:
            alpha = self.interpolated.sample_alpha(derive_seed(self.seed, step))
        for number in range(micro_batches):
            batch = next(batches)
            places += batch.indices.tolist()
            failures += batch.failures
            seed = derive_seed(self.seed, step, number)
            values = {} if alpha is None else self._interpolated_pass(batch, seed, alpha, micro_batches)
            torch.manual_seed(seed)  # both passes see the same templates
            is_last = number == micro_batches - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.task):
                losses = self.losses(batch)
                self.accelerator.backward(losses["loss"] / micro_batches)
            for name, value in {**losses, **values}.items():
                sums[name] = sums.get(name, 0) + value.detach() / micro_batches
        num_failures = sums["loss"].new_tensor(float(len(failures)))
        means = self._mean_over_processes({**sums, "failures": num_failures})
        any_failures = means.pop("failures") > 0
        return BatchLosses(means, alpha, places, failures, any_failures)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the task's losses of a micro-batch; where none of its videos could be read, of a blank."""
        device = self.accelerator.device
        video = batch.video[:, 0] if len(batch.indices) else torch.zeros(self.blank_shape)  # (B, T, 3, H, W)
        inputs = (video, batch.labels, batch.indices, batch.random_draws)
        found: dict[str, Tensor] = self.task(*(x.to(device, non_blocking=True) for x in inputs))
        return found

    def _interpolated_pass(
        self, batch: Batch, seed: int, alpha: float, micro_batches: int
    ) -> dict[str, Tensor]:
        assert self.anchor is not None
        torch.manual_seed(seed)
        with self.anchor.mixed(alpha), self.accelerator.no_sync(self.task):
            loss = self.losses(batch)["loss"]
            self.accelerator.backward(loss * self.interpolated.loss_weight(alpha) / micro_batches)
        return {"interpolated_loss": loss}

    def _mean_over_processes(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Return the means of all values, by one message between processes."""
        stacked = torch.stack([value.float() for value in values.values()])
        means = self.accelerator.reduce(stacked, reduction="mean")
        return dict(zip(values, means.tolist(), strict=True))
