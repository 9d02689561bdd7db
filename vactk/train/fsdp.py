"""Sharding with FSDP: tensors of which each process holds a shard, gathered whole and sharded again.

All processes must call `unshard`, `shard_like` and what is built on them: they exchange messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vactk.distributed import Accelerator, DistributedType
from vactk.errors import VactkError
from vactk.models.video_model import VideoModel, new_model
from vactk.weights.safetensors_file import load_exactly


def is_sharded(accelerator: Accelerator) -> bool:
    """Return whether FSDP shards the weights."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def keep_scalars_whole(accelerator: Accelerator, task: nn.Module) -> None:
    """Exempt scalars; call it before `prepare`. FSDP shards the first dimension, which CLIP's temperature lacks."""
    if is_sharded(accelerator):
        scalars = nn.ParameterList(_scalars(task))
        accelerator.state.fsdp_plugin.ignored_modules = [scalars]


def clip_sharded_gradients(accelerator: Accelerator, task: nn.Module, limit: float) -> float:
    """Scale all gradients down to a joint norm of `limit`, and return their norm before that.

    First averages the gradients of scalars over processes: FSDP leaves those to us.
    """
    for scalar in _scalars(task):
        if scalar.grad is not None:
            scalar.grad = accelerator.reduce(scalar.grad, reduction="mean")
    gradients = [p.grad for p in task.parameters() if p.grad is not None]
    device = accelerator.device
    zero = torch.zeros((), device=device)
    sharded = sum((_square(g) for g in gradients if isinstance(g, DTensor)), zero)
    unsharded = sum((_square(g) for g in gradients if not isinstance(g, DTensor)), zero)
    norm = (accelerator.reduce(sharded, reduction="sum") + unsharded).sqrt()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)  # as torch does
    for gradient in gradients:
        local_shard(gradient).mul_(factor)
    return float(norm)


def _square(gradient: Tensor) -> Tensor:
    return local_shard(gradient).float().square().sum()


def _scalars(task: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in task.parameters() if parameter.ndim == 0]


def check_sharding(accelerator: Accelerator) -> None:
    """Raise VactkError for kinds of sharding that would change the results, or do not work."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise VactkError(
            "DeepSpeed is not supported: it takes the optimiser's steps itself; FSDP saves the same memory: "
            "use_fsdp with fsdp_version: 2 in Accelerate's configuration"
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


def local_shard(tensor: Tensor) -> Tensor:
    """Return this process's shard, which shares storage with `tensor`; all of a tensor that is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def unshard(tensor: Tensor) -> Tensor:
    """Return the whole tensor, on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """Return `value`, a whole tensor, sharded like `like` and on its device."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements)


def unshard_state(state: Any, *, keep: bool) -> Any:
    """Return nested mappings and lists with whole tensors; those that were sharded are moved to the CPU.

    Without `keep`, the process takes part for the others and drops the sharded tensors.
    """
    if isinstance(state, DTensor):
        gathered = state.full_tensor()
        return gathered.cpu() if keep else torch.empty(0)
    if isinstance(state, Mapping):
        return {key: unshard_state(value, keep=keep) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [unshard_state(value, keep=keep) for value in state]
    return state


def shard_optimizer_state(state: Mapping[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """Return an optimiser's whole state dict sharded like its `parameters`, in the order of their groups."""
    sharded = {}
    for number, values in state["state"].items():
        like = parameters[number]
        sharded[number] = {
            name: shard_like(value, like)
            if isinstance(value, Tensor) and value.shape == like.shape
            else value
            for name, value in values.items()
        }
    return {**state, "state": sharded}


def unshard_model(model: VideoModel, accelerator: Accelerator) -> VideoModel:
    """Return the model to evaluate and to save: itself, or a whole copy on every process. All must call it."""
    if not is_sharded(accelerator):
        return model
    tensors = {name: unshard(tensor) for name, tensor in model.module_dict().state_dict().items()}
    copy = new_model(model.config, model.heads, weights=False)
    load_exactly(copy.module_dict(), tensors, may_lack=set(), source="the sharded model")
    copy.to(accelerator.device)
    return replace(copy, info=model.info)
