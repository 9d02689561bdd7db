"""AdamW, its parameter groups, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from vactk.errors import VactkError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and a cosine to zero (M2-CLIP, section 4.1)."""

    lr: float = 1e-3  # at a batch of `lr_batch` videos; scaled in proportion to the batch
    lr_batch: int = 256  # 0: take lr as it is
    text_lr_factor: float = 0.5  # for what is trained in the text tower
    tower_lr_factor: float = 1.0  # for CLIP's own weights, where they are trained
    weight_decay: float = 1e-2
    decayed: Literal["matrices", "all_but_biases"] = "matrices"  # the latter, norms too, as M2-CLIP published
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_epochs: float = 1.0
    clip_grad_norm: float = 1.0  # of all gradients as a whole; 0: off

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise VactkError(f"lr must be above 0, got {self.lr}")
        if self.weight_decay < 0 or self.warmup_epochs < 0 or self.clip_grad_norm < 0:
            raise VactkError("weight_decay, warmup_epochs and clip_grad_norm must be at least 0")


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig
) -> list[dict[str, Any]]:
    """Trained parameters, by their names in files, in groups of learning-rate factor and weight decay.

    Biases do not decay, nor do norms unless `config.decayed` says so.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            is_bias = name.endswith("bias")
            decays = not is_bias if config.decayed == "all_but_biases" else parameter.ndim > 1
            decay = config.weight_decay if decays else 0.0
            groups.setdefault((_lr_factor(name, config), decay), []).append(parameter)
    return [
        {"params": members, "lr_factor": factor, "weight_decay": decay}
        for (factor, decay), members in groups.items()
    ]


def build_optimizer(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over `groups`, fused where all parameters are on a CUDA device."""
    fused = all(p.is_cuda for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused or None)


def peak_lr(config: OptimConfig, batch_size: int) -> float:
    """The learning rate after warm-up for batches of `batch_size` videos."""
    return config.lr * batch_size / config.lr_batch if config.lr_batch else config.lr


def schedule(step: int, total_steps: int, warmup_steps: int) -> float:
    """The factor on the peak learning rate at `step` (from 0): linear warm-up, then a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Every group at `lr` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def _lr_factor(name: str, config: OptimConfig) -> float:
    is_text = name.startswith(("text_adapters.", "word_head.adapters."))
    if name.startswith("clip."):
        is_text = not name.startswith("clip.visual.")
    factor = config.tower_lr_factor if name.startswith("clip.") else 1.0
    return factor * (config.text_lr_factor if is_text else 1.0)
