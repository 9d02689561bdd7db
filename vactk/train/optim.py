"""AdamW, its parameter groups, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from vactk.errors import VactkError
from vactk.models import text_tower, vision_tower
from vactk.models.video_model import clip_tower_of

LAYER_NUMBERS = {"vision": vision_tower.layer_number, "text": text_tower.layer_number}


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay (M2-CLIP, section 4.1)."""

    lr: float = (
        1e-3  # peak learning rate for batches of base_batch_size videos, scaled linearly to other sizes
    )
    base_batch_size: int = 256  # 0: lr is not scaled
    # width x blocks of the vision tower that lr is meant for (ViT-B: 9216), scaled inversely to others; 0: not
    base_tower_size: int = 0
    text_lr_factor: float = 0.5  # learning-rate factor of everything trained in the text tower
    tower_lr_factor: float = 1.0  # learning-rate factor of CLIP's own weights, where they are trained
    layer_decay: float = 1.0  # learning-rate factor from each of CLIP's blocks to the one below it
    weight_decay: float = 1e-2
    # M2-CLIP's release decays all but biases, norms too; Open-VCLIP's all but vectors, the temperature too
    weight_decay_on: Literal["matrices", "all_but_biases", "all_but_vectors"] = "matrices"
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_epochs: float = 1.0
    warmup_share: float = 0.0  # share of all steps that are the warm-up; 0: warmup_epochs decides
    warmup_start_factor: float = 0.01  # share of lr at the first step of the warm-up
    min_lr_factor: float = 0.0  # share of lr at the end of the cosine
    clip_grad_norm: float = 1.0  # maximum norm of all gradients together; 0: off

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise VactkError(f"lr must be above 0, got {self.lr}")
        if not 0 < self.layer_decay <= 1:
            raise VactkError(f"layer_decay must be above 0 and at most 1, got {self.layer_decay}")
        if not 0 <= self.warmup_share < 1:
            raise VactkError(f"warmup_share must be a share of the steps below 1, got {self.warmup_share}")
        for name in ("warmup_start_factor", "min_lr_factor"):
            if not 0 <= getattr(self, name) <= 1:
                raise VactkError(f"{name} must be a share of lr from 0 to 1, got {getattr(self, name)}")
        if self.weight_decay < 0 or self.warmup_epochs < 0 or self.clip_grad_norm < 0:
            raise VactkError("weight_decay, warmup_epochs and clip_grad_norm must be at least 0")


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig
) -> list[dict[str, Any]]:
    """Group the trained parameters, by their names in files, by learning-rate factor and weight decay.

    Biases do not decay, nor do norms unless `config.weight_decay_on` includes them.
    """
    parameters = list(parameters)
    depths = _depths([name for name, _ in parameters])
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}  # scalars apart: they are never sharded
    for name, parameter in parameters:
        if parameter.requires_grad:
            decay = config.weight_decay if _decays(name, parameter, config) else 0.0
            factor = _lr_factor(name, config) * config.layer_decay ** depths[name]
            groups.setdefault((factor, decay, parameter.ndim == 0), []).append(parameter)
    return [
        {"params": members, "lr_factor": factor, "weight_decay": decay}
        for (factor, decay, _), members in groups.items()
    ]


def build_optimizer(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Return AdamW over `groups`, fused where all parameters are on a CUDA device."""
    fused = all(p.is_cuda for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused or None)


def peak_lr(config: OptimConfig, batch_size: int, tower_size: int = 0) -> float:
    """Return the learning rate after warm-up, for batches of `batch_size` and a vision tower of `tower_size`.

    A step of AdamW changes what a block computes in proportion to its width, and a tower adds its blocks' changes.
    """
    lr = config.lr * batch_size / config.base_batch_size if config.base_batch_size else config.lr
    return lr * config.base_tower_size / tower_size if config.base_tower_size and tower_size else lr


def schedule(step: int, total_steps: int, warmup_steps: int, start: float = 0.0, end: float = 0.0) -> float:
    """Return the factor on the peak rate at `step`, from 0: linear from `start` to 1, then a cosine to `end`."""
    if step < warmup_steps:
        return start + (1 - start) * step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group to `lr` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def _lr_factor(name: str, config: OptimConfig) -> float:
    is_text = name.startswith(("text_adapters.", "word_head.adapters.")) or clip_tower_of(name) == "text"
    factor = config.tower_lr_factor if name.startswith("clip.") else 1.0
    return factor * (config.text_lr_factor if is_text else 1.0)


def _decays(name: str, parameter: nn.Parameter, config: OptimConfig) -> bool:
    if config.weight_decay_on == "matrices":
        return parameter.ndim > 1
    is_bias = name.endswith("bias")
    return not is_bias if config.weight_decay_on == "all_but_biases" else not is_bias and parameter.ndim != 1


def _depths(names: Sequence[str]) -> dict[str, int]:
    """Count the blocks of its tower above each of CLIP's parameters; 0 for everything else."""
    depths = dict.fromkeys(names, 0)
    for tower, layer_number in LAYER_NUMBERS.items():
        found = {name: layer_number(name) for name in names if clip_tower_of(name) == tower}
        layers = {name: layer for name, layer in found.items() if layer is not None}
        highest = max(layers.values(), default=-1)
        depths |= {name: highest - layer for name, layer in layers.items()}
    return depths
