"""Processes: the one place that sets up accelerate, and reductions over processes."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import accelerate.utils
import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor

from vactk.errors import VactkError

T = TypeVar("T")


def make_accelerator(device: str, precision: str, **kwargs: Any) -> Accelerator:
    """An Accelerator on `device` ("auto": an accelerator where there is one; "cpu") in fp32, bf16 or fp16.

    Precision "auto" is bf16 on an accelerator that has it, else fp32. Raises VactkError when the machine
    cannot do what is asked for.
    """
    if precision == "auto":
        has_bf16 = device != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        precision = "bf16" if has_bf16 else "fp32"
    process_state(device)
    try:
        accelerator = Accelerator(
            cpu=on_cpu(device), mixed_precision="no" if precision == "fp32" else precision, **kwargs
        )
        if accelerator.distributed_type == DistributedType.MULTI_CPU and wants_fsdp():
            # torch can, and Accelerate leaves it out without a word
            accelerator.state.distributed_type = DistributedType.FSDP
            PartialState().distributed_type = DistributedType.FSDP  # from which Accelerate takes it again
            accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        return accelerator
    except (ValueError, RuntimeError, ImportError) as error:
        raise VactkError(f"cannot run with --device {device} --precision {precision}: {error}") from error


def wants_fsdp() -> bool:
    """Whether Accelerate's configuration asks for sharded weights: its launcher says so in the environment."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def on_cpu(device: str) -> bool:
    """Whether `device` ("auto", "cpu") is the CPU here: told nothing, Accelerate lets processes work apart."""
    return device == "cpu" or not torch.accelerator.is_available()


def process_state(device: str) -> PartialState:
    """This process among those of its launch. Raises VactkError when they do not find together."""
    state = PartialState(cpu=on_cpu(device))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != world:
        raise VactkError(
            f"{world} processes were launched, but each would work alone on {state.device}; add --device cpu"
        )
    return state


def num_processes() -> int:
    """Return how many processes work together."""
    return int(PartialState().num_processes)


def gather_object(items: list[T]) -> list[T]:
    """Return the lists of all processes as one, in order of their rank. All must call it; items are pickled."""
    gathered: list[T] = accelerate.utils.gather_object(items)
    return gathered


def broadcast_object(value: T) -> T:
    """Return the `value` of the main process. All must call it; it is pickled."""
    sent: list[T] = accelerate.utils.broadcast_object_list([value])
    return sent[0]


def distributed_mean(total: Tensor, count: Tensor) -> Tensor:
    """What this process adds to a mean over the rows of all processes; 0 where there are no rows. Scalars.

    `total` and `count` are sums over the own rows. The mean over the processes of what comes back, as data
    parallel training takes it of gradients, is the sum of totals over the sum of counts: a process that read
    fewer videos than the others weighs less.
    """
    if not is_distributed():
        return total / count.clamp(min=1)
    everywhere = count.clone()
    dist.all_reduce(everywhere)
    return total * dist.get_world_size() / everywhere.clamp(min=1)


def is_distributed() -> bool:
    """Whether this process is one of several that work on the same batches."""
    return dist.is_available() and dist.is_initialized()


def gather(x: Tensor) -> Tensor:
    """The rows of all processes in order of their rank, gradients passing back. x (B, ...) -> (sum of B, ...)

    B may differ between processes: videos that cannot be read are missing from a batch.
    """
    if not is_distributed():
        return x
    if x.dtype == torch.bool:  # not every backend gathers those
        return gather(x.long()).bool()
    sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    counts = [int(size) for size in sizes]
    padded = torch.cat([x, x.new_zeros(max(counts) - len(x), *x.shape[1:])])
    stacked = _Gather.apply(padded)
    return torch.cat([part[:count] for part, count in zip(stacked, counts, strict=True)])


class _Gather(torch.autograd.Function):
    """x (B, ...) of every process -> (processes, B, ...); every process's gradient comes back to where x is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]
