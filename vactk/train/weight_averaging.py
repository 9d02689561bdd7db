"""The mean of the weights along a training run (Open-VCLIP, section 3.4; stochastic weight averaging)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vactk.errors import VactkError
from vactk.train.fsdp import pieces_of


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

    def interval(self, steps_per_epoch: float) -> int:
        """Steps between averaged weights, 0 for none."""
        return self.every_steps or (
            max(1, round(self.every_epochs * steps_per_epoch)) if self.every_epochs else 0
        )


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
