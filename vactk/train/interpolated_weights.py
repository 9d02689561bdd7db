"""Interpolated weight optimisation: a low loss between trained and original weights too (Open-VCLIP, 3.3)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from vactk.errors import VactkError
from vactk.train.fsdp import local_shard, shard_like


@dataclass(frozen=True, kw_only=True)
class InterpolatedConfig:
    """A second pass of each batch at weights between the trained and the original ones.

    g = grad L(theta) + weight * grad L(alpha * theta_0 + (1 - alpha) * theta), alpha sampled for each step.
    """

    weight: float = 0.0  # weight of the second pass's loss; 0: no second pass. Open-VCLIP: 0.5
    alphas: tuple[float, float] = (0.0, 0.6)  # range of alpha; 1 is the original CLIP
    chain_rule: bool = False  # scale the second gradient by (1 - alpha); the published code does not

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise VactkError(f"interpolated.weight must be at least 0, got {self.weight}")
        low, high = self.alphas
        if not 0 <= low <= high <= 1:
            raise VactkError(
                f"interpolated.alphas must be two ascending shares from 0 to 1, got {self.alphas}"
            )

    def loss_weight(self, alpha: float) -> float:
        """Return the weight of the loss at the interpolated weights."""
        return self.weight * (1 - alpha) if self.chain_rule else self.weight

    def sample_alpha(self, seed: int) -> float:
        """Return alpha for one step, the same on every process that has the same seed."""
        low, high = self.alphas
        return low + (high - low) * float(torch.rand((), generator=torch.Generator().manual_seed(seed)))


class Anchor:
    """The original values of trained parameters, and weights between those and the present ones.

    The originals are kept in pinned host memory, or for training on the CPU in a temporary file that is read
    while mixing: the mixed pass costs one more copy of the trained weights in memory. With FSDP each process
    mixes its own shards.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], originals: Mapping[str, Tensor]
    ) -> None:
        """Keep the originals of the trained `parameters`: their present values, where `originals` lacks them."""
        trained = {name: parameter for name, parameter in parameters if parameter.requires_grad}
        self.parameters = list(trained.values())
        values = [
            local_shard(shard_like(originals[n], p) if n in originals else p.detach()).cpu().contiguous()
            for n, p in trained.items()
        ]
        self.pinned = [value.pin_memory() for value in values] if self.parameters[0].is_cuda else None
        if self.pinned is None:
            self.folder = tempfile.TemporaryDirectory(prefix="vactk-")
            self.file = Path(self.folder.name) / "originals.safetensors"
            try:
                save_file({str(number): value.clone() for number, value in enumerate(values)}, self.file)
            except (OSError, SafetensorError) as error:
                raise VactkError(
                    f"cannot write the original weights to '{self.file}': {error}; TMPDIR names another folder"
                ) from error

    @contextlib.contextmanager
    def mixed(self, alpha: float) -> Iterator[None]:
        """Set the weights to alpha * original + (1 - alpha) * present, and restore them at the end.

        Run forward and backward passes inside: gradient checkpointing repeats the forward pass in the backward
        one, and must see the same weights.
        """
        own = [
            local_shard(parameter.detach()) for parameter in self.parameters
        ]  # with the parameters' storage
        present = parameters_to_vector(own)  # one allocation, which is given back whole
        try:
            self._mix(own, alpha)
            yield
        finally:
            values = present.split([parameter.numel() for parameter in own])
            with torch.no_grad():
                for parameter, value in zip(own, values, strict=True):
                    parameter.copy_(value.view_as(parameter))

    @torch.no_grad()
    def _mix(self, own: list[Tensor], alpha: float) -> None:
        for parameter, original in zip(own, self._originals(), strict=True):
            parameter.lerp_(original.to(parameter.device, non_blocking=True), alpha)

    def _originals(self) -> Iterator[Tensor]:
        if self.pinned is not None:
            yield from self.pinned
            return
        with safe_open(self.file, framework="pt") as file:
            for number in range(len(self.parameters)):
                yield file.get_tensor(str(number))
