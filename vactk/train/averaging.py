"""The mean of the weights along a training run (Open-VCLIP, section 3.4; stochastic weight averaging)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vactk.errors import VactkError
from vactk.train.sharding import pieces_of


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """Which weights of the run are averaged; none by default. The last step's are always among them."""

    every_epochs: float = 0.0  # between the weights that are averaged; 0: see every_steps
    every_steps: int = 0  # the same in steps; 0: see every_epochs
    start_epoch: float = 0.0  # of the first

    def __post_init__(self) -> None:
        if self.every_epochs < 0 or self.every_steps < 0 or self.start_epoch < 0:
            raise VactkError("every_epochs, every_steps and start_epoch must be at least 0")
        if self.every_epochs and self.every_steps:
            raise VactkError("weights are averaged by every_epochs or by every_steps, not both")

    def steps(self, epochs: float, step_of: Callable[[float], int]) -> set[int]:
        """The steps whose weights are averaged, each once; none where nothing is averaged.

        `step_of` gives the step with which so many epochs are done: the end of an epoch is where it is rounded
        to, however many were averaged before.
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
        """Take the weights as they are now into the mean."""
        self.count += 1
        for name, parameter in self.parameters.items():
            value = parameter.detach().float()
            if name in self.mean:
                self.mean[name] += (value - self.mean[name]) / self.count
            else:
                self.mean[name] = value.clone()

    def state(self) -> dict[str, Any]:
        """What `load_state` goes on from."""
        return {"count": self.count, "mean": self.mean}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.count = state["count"]
        for name, mean in state["mean"].items():
            parameter = self.parameters[name]
            self.mean[name] = pieces_of(mean.to(parameter.device), parameter.detach().float())

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The mean in the place of the weights, which come back at the end."""
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
