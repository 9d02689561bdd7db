"""Running mean of the weights along a training run (Open-VCLIP, section 3.4; stochastic weight averaging)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vactk.errors import VactkError
from vactk.train.fsdp import shard_like


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """The steps whose weights are averaged; none by default. The last step is always among them."""

    every_epochs: float = 0.0  # interval in epochs; 0: every_steps decides
    every_steps: int = 0  # interval in steps; 0: every_epochs decides
    start_epoch: float = 0.0  # epochs before the first weights that are averaged

    def __post_init__(self) -> None:
        if self.every_epochs < 0 or self.every_steps < 0 or self.start_epoch < 0:
            raise VactkError("every_epochs, every_steps and start_epoch must be at least 0")
        if self.every_epochs and self.every_steps:
            raise VactkError("weights are averaged by every_epochs or by every_steps, not both")

    def steps(self, epochs: float, step_of: Callable[[float], int]) -> set[int]:
        """Return the steps whose weights are averaged; none where averaging is off.

        `step_of` maps a number of epochs to the step that ends them.
        """
        last, start = step_of(epochs), step_of(self.start_epoch) if self.start_epoch else 0
        if self.every_steps:
            return {step for step in range(start, last, self.every_steps) if step} | {last}
        if not self.every_epochs:
            return set()
        count = math.floor(max(0.0, epochs - self.start_epoch) / self.every_epochs + 1e-9) + 1
        ends = (self.start_epoch + number * self.every_epochs for number in range(count))
        return {min(step_of(end), last) for end in ends if end > 0} | {last}


class WeightAverage:
    """A running uniform mean of parameters, in float32."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self.mean: dict[str, Tensor] = {}
        self.count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Add the present weights to the mean."""
        self.count += 1
        for name, parameter in self.parameters.items():
            value = parameter.detach().float()
            if name in self.mean:
                self.mean[name] += (value - self.mean[name]) / self.count
            else:
                self.mean[name] = value.clone()

    def state_dict(self) -> dict[str, Any]:
        """Return the mean and the number of weights in it."""
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.count = state["count"]
        for name, mean in state["mean"].items():
            parameter = self.parameters[name]
            self.mean[name] = shard_like(mean.to(parameter.device), parameter.detach().float())

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the weights by their mean, and restore them at the end."""
        kept = {name: self.parameters[name].detach().clone() for name in self.mean}
        try:
            self._copy(self.mean)
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)
