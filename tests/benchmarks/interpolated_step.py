"""The cost of interpolated weight optimisation at ViT-B/16, 8 frames, batch 1, float32 on the CPU.

    python -m tests.benchmarks.interpolated_step --repeats 5

- time: forward, backward and the optimiser's step with a second pass at mixed weights, against two bare passes
  and the same step; medians of interleaved runs
- memory: peak of a process that does a plain step, two bare passes, or an interpolated step, in copies of the
  trained weights; freed memory goes back to the system at once, so that holes in the allocator's do not count
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from tests.benchmarks.m2clip_step import medians, peak_memory
from vactk.config import build, merge, parse_overrides
from vactk.models.video_model import VideoModel, new_model
from vactk.recipes import read_recipe
from vactk.train.class_prompts import ClassPrompts
from vactk.train.interpolated_weights import Anchor
from vactk.train.optim import build_optimizer, parameter_groups
from vactk.train.recipe import Recipe
from vactk.train.task import VideoTextTask, choose_trained

MODES = ("plain", "two passes", "interpolated")


def main(
    repeats: Annotated[int, typer.Option(help="Runs of each; the median counts.")] = 5,
    threads: int = 2,
    memory: Annotated[str, typer.Option(hidden=True, help="Do two steps of a mode and print the peak.")] = "",
) -> None:
    """Measure, and print the ratios."""
    torch.set_num_threads(threads)
    if memory:
        step = Step()
        step.run(memory)  # the optimiser's own memory comes with the first step
        peak_memory()
        step.run(memory)
        print(peak_memory(), step.trained_bytes)
        return
    step = Step()
    times = medians({mode: lambda mode=mode: step.run(mode) for mode in MODES[1:]}, repeats)
    print(
        f"interpolated step: {times['interpolated'] / times['two passes']:.3f} of two bare passes", flush=True
    )
    peaks = {}
    plain_malloc = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    for mode in MODES:
        module = f"tests.benchmarks.{Path(__file__).stem}"
        command = [sys.executable, "-m", module, "--memory", mode, "--threads", str(threads)]
        peak, copy = map(
            int,
            subprocess.run(
                command, capture_output=True, text=True, check=True, env=plain_malloc
            ).stdout.split(),
        )
        peaks[mode] = peak
        over = (peak - peaks["plain"]) / copy
        print(
            f"memory, {mode}: {peak / 2**20:,.0f} MiB, {over:+.2f} copies of the trained weights over a plain step"
        )


class Step:
    """A model with its optimiser, and a batch."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        recipe = build_recipe()
        self.model: VideoModel = new_model(recipe.model)
        choose_trained(self.model, recipe.task.towers)
        self.model.train(True)
        prompts = ClassPrompts(fixed=torch.nn.functional.normalize(torch.randn(400, 512), dim=-1))
        self.task = VideoTextTask(self.model, recipe.task, prompts, None)
        modules = self.model.module_dict()
        self.optimizer = build_optimizer(
            parameter_groups(modules.named_parameters(), recipe.optim), recipe.optim
        )
        self.anchor = Anchor(modules.named_parameters(), {})
        self.config = recipe.interpolated
        self.video, self.labels = torch.randn(1, 8, 3, 224, 224), torch.tensor([3])
        self.trained_bytes = sum(p.numel() * 4 for p in modules.parameters() if p.requires_grad)

    def run(self, mode: str) -> Tensor:
        """One step of the optimiser."""
        if mode != "plain":
            alpha = 0.3
            mixed = self.anchor.mixed(alpha) if mode == "interpolated" else contextlib.nullcontext()
            with mixed:
                self._backward(self.config.factor(alpha))
        loss = self._backward(1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def _backward(self, weight: float) -> Tensor:
        loss = self.task(self.video, self.labels, self.labels)["loss"] * weight
        loss.backward()
        return loss.detach()


def build_recipe() -> Recipe:
    """Open-VCLIP's, with random weights."""
    changes = parse_overrides(["model.backbone.pretrained=none"])
    return build(Recipe, merge(read_recipe("openvclip-k400"), changes))


if __name__ == "__main__":
    typer.run(main)
