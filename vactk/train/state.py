"""The state of a run, which its process saves and a later one goes on from exactly."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import nn

from vactk.checkpoints.checkpoint import saved_names
from vactk.distributed import Accelerator
from vactk.train.fsdp import shard_like, shard_optimizer_state, unshard_state
from vactk.train.weight_averaging import WeightAverage
from vactk.weights.safetensors_file import load_exactly


@dataclass
class TrainProgress:
    """The counters of a run."""

    step: int = 0  # steps done
    failed: dict[int, str] = field(default_factory=dict)  # position in the records -> why it cannot be read
    skipped: int = 0  # steps without an update, because loss or gradient was not finite
    skipped_in_a_row: int = 0  # the last ones of these
    micro_batches: int = 1  # per batch


@dataclass(frozen=True)
class TrainState:
    """Everything that a run changes: weights, optimiser, gradient scaler, averaged weights and counters."""

    modules: nn.ModuleDict
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    average: WeightAverage | None
    progress: TrainProgress
    towers: tuple[str, ...]  # of CLIP, which are trained and therefore saved

    def state_dict(self) -> dict[str, Any]:
        """Return the state. All processes must call it; of sharded weights, only the main one gets them."""
        names = saved_names(self.modules, self.towers)
        scaler = self.accelerator.scaler
        state = {
            **asdict(self.progress),
            "modules": {name: tensor for name, tensor in self.modules.state_dict().items() if name in names},
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }
        return unshard_state(state, keep=self.accelerator.is_main_process)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, with at least as many micro-batches as there are now."""
        own = self.modules.state_dict()
        may_lack = own.keys() - saved_names(self.modules, self.towers)
        weights = {
            name: shard_like(value, own[name]) if name in own else value
            for name, value in state["modules"].items()
        }
        load_exactly(self.modules, weights, may_lack=may_lack, source="the saved state")
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.load_state_dict(shard_optimizer_state(state["optimizer"], trained))
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        micro_batches = self.progress.micro_batches
        for counter in fields(TrainProgress):
            setattr(
                self.progress, counter.name, state.get(counter.name, getattr(self.progress, counter.name))
            )
        self.progress.micro_batches = max(micro_batches, self.progress.micro_batches)
