"""Devices and processes: the only place that sets up accelerate, and messages between processes."""

from __future__ import annotations

import os
import time
from typing import Any, TypeVar

import accelerate.utils
import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor

from vactk.errors import VactkError

T = TypeVar("T")
LAST_MESSAGE_S = 0.2  # for the thread of a process group to let go of its last message


def make_accelerator(device: str, precision: str, **kwargs: Any) -> Accelerator:
    """Return an Accelerator on `device` ("auto": a GPU where there is one; "cpu") in fp32, bf16 or fp16.

    Precision "auto" is bf16 on a GPU that supports it, else fp32. Raises VactkError when the machine supports
    no such combination.
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
            # torch shards on CPUs too, and Accelerate silently ignores the setting there
            accelerator.state.distributed_type = DistributedType.FSDP
            PartialState().distributed_type = DistributedType.FSDP  # Accelerate reads it again from there
            accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        return accelerator
    except (ValueError, RuntimeError, ImportError) as error:
        raise VactkError(f"cannot run with --device {device} --precision {precision}: {error}") from error


def wants_fsdp() -> bool:
    """Return whether Accelerate's configuration asks for FSDP; its launcher sets this environment variable."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def on_cpu(device: str) -> bool:
    """Return whether `device` ("auto", "cpu") is the CPU; unless told, Accelerate leaves its processes apart."""
    return device == "cpu" or not torch.accelerator.is_available()


def process_state(device: str) -> PartialState:
    """Return this process's state in its launch. Raises VactkError when the processes are not connected."""
    state = PartialState(cpu=on_cpu(device))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != world:
        raise VactkError(
            f"{world} processes were launched, but each would run alone on {state.device}; add --device cpu"
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


def on_any_process(condition: bool, accelerator: Accelerator) -> bool:
    """Return whether `condition` holds on any process: the same answer on all of them. All must call it."""
    if accelerator.num_processes == 1:
        return condition
    count = torch.tensor(float(condition), device=accelerator.device)
    return bool(accelerator.reduce(count, reduction="sum") > 0)


def distributed_mean(total: Tensor, count: Tensor) -> Tensor:
    """Return this process's contribution to a mean over the rows of all processes; 0 without rows. Scalars.

    `total` and `count` are sums over the rows of this process. The mean of the contributions over processes,
    which data parallel training takes of gradients, is the sum of totals over the sum of counts: a process
    that read fewer videos than the others weighs less.
    """
    if not is_distributed():
        return total / count.clamp(min=1)
    everywhere = count.clone()
    dist.all_reduce(everywhere)
    return total * dist.get_world_size() / everywhere.clamp(min=1)


def is_distributed() -> bool:
    """Return whether this is one of several processes that share batches."""
    return dist.is_available() and dist.is_initialized()


def gather(x: Tensor) -> Tensor:
    """Return the rows of all processes in order of their rank, with gradients. x (B, ...) -> (sum of B, ...)

    B may differ between processes: videos that cannot be read are missing from a batch.
    """
    if not is_distributed():
        return x
    if x.dtype == torch.bool:  # not every backend gathers booleans
        return gather(x.long()).bool()
    sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    counts = [int(size) for size in sizes]
    padded = torch.cat([x, x.new_zeros(max(counts) - len(x), *x.shape[1:])])
    stacked = _Gather.apply(padded)
    return torch.cat([rows[:count] for rows, count in zip(stacked, counts, strict=True)])


class _Gather(torch.autograd.Function):
    """x (B, ...) of every process -> (processes, B, ...); the gradients of all processes flow back to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gathered = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, x.contiguous())
        return torch.stack(gathered)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]


def end_training(accelerator: Accelerator) -> None:
    """Close the trackers and leave the process group.

    The thread of a Gloo group takes Python's lock to free the tensors of its last message, and the group's end
    waits for that thread, holding the lock: without a pause, processes can hang here.
    """
    if accelerator.num_processes > 1:
        time.sleep(LAST_MESSAGE_S)
    accelerator.end_training()
