"""Interpolated weight optimisation: a loss that is small on the way back to CLIP too (Open-VCLIP, section 3.3)."""

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
from vactk.train.fsdp import local, pieces_of


@dataclass(frozen=True, kw_only=True)
class InterpolatedConfig:
    """A second pass of each batch through weights between the trained and the original ones.

    g = grad L(theta) + weight * grad L(alpha * theta_0 + (1 - alpha) * theta), with alpha drawn anew for each step.
    """

    weight: float = 0.0  # of the second pass; 0: there is none. Open-VCLIP: 0.5
    alphas: tuple[float, float] = (0.0, 0.6)  # the range that alpha is drawn from; 1 is the original CLIP
    chain_rule: bool = False  # the second gradient times (1 - alpha), which the published code leaves out

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
    """The original values of trained parameters, and the weights between those and the present ones.

    The originals lie in pinned memory of the host, or, where that is also what computes, in a file that is
    read for as long as it takes to mix: the mixed pass costs one copy of the trained weights and no more. Of
    sharded parameters (FSDP) each process mixes its own pieces.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], originals: Mapping[str, Tensor]
    ) -> None:
        """Takes the trained ones of the named `parameters`; what `originals` lacks has its original value now."""
        trained = {name: parameter for name, parameter in parameters if parameter.requires_grad}
        self.parameters = list(trained.values())
        values = [
            local(pieces_of(originals[n], p) if n in originals else p.detach()).cpu().contiguous()
            for n, p in trained.items()
        ]
        self.pinned = [value.pin_memory() for value in values] if self.parameters[0].is_cuda else None
        if self.pinned is None:
            self.folder = tempfile.TemporaryDirectory(prefix="vactk-")
            self.file = Path(self.folder.name) / "originals.safetensors"
            try:
                save_file({str(place): value.clone() for place, value in enumerate(values)}, self.file)
            except (OSError, SafetensorError) as error:
                raise VactkError(
                    f"cannot write the original weights to '{self.file}': {error}; TMPDIR names another folder"
                ) from error

    @contextlib.contextmanager
    def mixed(self, alpha: float) -> Iterator[None]:
        """alpha * original + (1 - alpha) * present in the place of the present values, which then come back.

        Forward and backward passes go inside, so that passes that are computed anew in the backward pass
        (gradient checkpointing) see the same weights.
        """
        own = [local(parameter.detach()) for parameter in self.parameters]  # with the parameters' storage
        present = parameters_to_vector(own)  # one piece, so that all of it is given back
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
            for place in range(len(self.parameters)):
                yield file.get_tensor(str(place))
