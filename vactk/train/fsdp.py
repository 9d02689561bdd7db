"""Weights that lie in pieces on several processes (FSDP): as whole tensors, and back.

Every process must call `whole` and `pieces_of`: they are messages between all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vactk.distributed import Accelerator, DistributedType
from vactk.errors import VactkError


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether weights are in pieces."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def leave_scalars_whole(accelerator: Accelerator, task: nn.Module) -> None:
    """Before `prepare`: FSDP cuts along the first dimension, which CLIP's temperature has not."""
    if is_sharded(accelerator):
        scalars = nn.ParameterList(_scalars(task))
        accelerator.state.fsdp_plugin.ignored_modules = [scalars]


def clip_sharded_gradients(accelerator: Accelerator, task: nn.Module, limit: float) -> float:
    """The norm of all gradients as a whole, which is brought down to `limit`.

    Before that, the gradients of whole parameters, which FSDP leaves alone, become their means over processes.
    """
    for scalar in _scalars(task):
        if scalar.grad is not None:
            scalar.grad = accelerator.reduce(scalar.grad, reduction="mean")
    gradients = [p.grad for p in task.parameters() if p.grad is not None]
    device = accelerator.device
    pieces = sum((_square(g) for g in gradients if isinstance(g, DTensor)), torch.zeros((), device=device))
    others = sum(
        (_square(g) for g in gradients if not isinstance(g, DTensor)), torch.zeros((), device=device)
    )
    norm = (accelerator.reduce(pieces, reduction="sum") + others).sqrt()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)  # as torch does
    for gradient in gradients:
        local(gradient).mul_(factor)
    return float(norm)


def _square(gradient: Tensor) -> Tensor:
    return local(gradient).float().square().sum()


def _scalars(task: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in task.parameters() if parameter.ndim == 0]


def check_sharding(accelerator: Accelerator) -> None:
    """Raises VactkError for ways of sharding that would give other results, or none."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise VactkError(
            "training does not go through DeepSpeed, which takes the optimiser's steps itself; FSDP shards the "
            "same: use_fsdp with fsdp_version: 2 in Accelerate's configuration"
        )
    if not is_sharded(accelerator):
        return
    plugin = accelerator.state.fsdp_plugin
    if getattr(plugin, "fsdp_version", 1) != 2:
        raise VactkError("FSDP needs fsdp_version: 2 in Accelerate's configuration: 1 flattens the weights")
    if plugin.auto_wrap_policy is not None:
        raise VactkError(
            "FSDP needs fsdp_auto_wrap_policy: NO_WRAP in Accelerate's configuration: temporal modules reach "
            "into CLIP's blocks, which cannot be gathered one by one"
        )


def local(tensor: Tensor) -> Tensor:
    """The piece of this process, with the storage of `tensor`; all of it where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def pieces_of(value: Tensor, like: Tensor) -> Tensor:
    """`value`, which is whole, on the device of `like` and in pieces as it is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements)


def whole_state(state: Any, *, keep: bool) -> Any:
    """Nested mappings and lists with their tensors whole, in the host's memory where they were sharded.

    Without `keep` the process helps the others to theirs, and keeps no sharded tensor itself.
    """
    if isinstance(state, DTensor):
        gathered = state.full_tensor()
        return gathered.cpu() if keep else torch.empty(0)
    if isinstance(state, Mapping):
        return {key: whole_state(value, keep=keep) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [whole_state(value, keep=keep) for value in state]
    return state


def sharded_optimizer_state(state: Mapping[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """An optimiser's whole state dict in pieces as its `parameters` are, in the order of their groups."""
    pieces = {}
    for place, values in state["state"].items():
        like = parameters[place]
        pieces[place] = {
            name: pieces_of(value, like) if isinstance(value, Tensor) and value.shape == like.shape else value
            for name, value in values.items()
        }
    return {**state, "state": pieces}
