"""The cost of M2-CLIP at ViT-B/16, 8 frames, batch 2, float32 on the CPU, as ratios of medians of interleaved runs.

    python -m tests.benchmarks.m2clip_step --repeats 5

- forward: the vision tower with adapters, against stock open_clip on the same frames
- step: forward and backward through the vision tower, adapters trained, against the plain formulation
- whole step: all four losses at 400 classes, against encoding every class prompt at full length in each step;
  the losses and all gradients of the two are compared first
- memory: peak of a process that does the whole step, with and without gradient checkpointing
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from tests.benchmarks import naive_m2clip as naive
from vactk.config import build, merge, parse_overrides
from vactk.data.records import Record, VideoSet
from vactk.models.video_model import Heads, VideoModel, new_model
from vactk.recipes import read_recipe
from vactk.text.templates import choose_templates
from vactk.text.words import build_vocabulary
from vactk.train.recipe import Recipe
from vactk.train.setup import build_task
from vactk.train.task import VideoTextTask, choose_trained

VERBS = [
    "playing",
    "carrying",
    "washing",
    "folding",
    "throwing",
    "painting",
    "cutting",
    "opening",
    "pulling",
    "riding",
]
THINGS = [
    "a guitar",
    "the dishes",
    "a paper airplane",
    "a shot put",
    "water melons",
    "a unicycle",
    "snow boards",
    "a hurdle",
    "laundry",
    "eggs",
    "a trumpet",
    "a dog",
    "cards",
    "bricks",
    "nails",
    "a bicycle",
    "a kite",
    "wood",
    "a rope",
    "a harmonica",
    "a drum kit",
    "shoes",
    "a wheelchair",
    "apples",
    "a car",
    "clay pots",
    "a window",
    "a ball",
    "hair",
    "a bow",
    "a sword",
    "bread",
    "a sofa",
    "walls",
    "a horse",
    "a tractor",
    "a camel",
    "poker chips",
    "fish",
    "flowers",
]
CLASSES = tuple(f"{verb} {thing}" for verb, thing in product(VERBS, THINGS))  # 400


def main(
    repeats: Annotated[int, typer.Option(help="Runs of each; the median counts.")] = 5,
    threads: int = 2,
    memory: Annotated[str, typer.Option(hidden=True, help="Do one step and print the peak.")] = "",
) -> None:
    """Measure, and print the ratios."""
    torch.set_num_threads(threads)
    if memory:
        one_step(checkpointing=memory == "checkpointing")
        return
    for recipe in ("m2clip-k400", "m2clip-ssv2"):
        vision(recipe, repeats)
    whole_step(max(1, repeats // 2))
    for mode in ("plain", "checkpointing"):
        module = f"tests.benchmarks.{Path(__file__).stem}"
        command = [sys.executable, "-m", module, "--memory", mode, "--threads", str(threads)]
        peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(f"memory, {mode}: {peak.strip()}")


def make(recipe_name: str) -> tuple[VideoTextTask, VideoModel]:
    """A task at ViT-B/16 with random weights everywhere, so that no branch is dead."""
    torch.manual_seed(0)
    changes = ["model.backbone.pretrained=none", "task.head_dropout=0", "run.precision=fp32"]
    recipe = build(Recipe, merge(read_recipe(recipe_name), parse_overrides(changes)))
    videos = VideoSet(
        name="benchmark",
        split="train",
        classes=CLASSES,
        words=CLASSES,
        records=(Record(video=Path("none.mp4"), label=0),),
    )
    prompts = [t.format(word) for t in choose_templates(recipe.templates) for word in CLASSES]
    heads = Heads(classes=CLASSES, class_head=True, dropout=0, vocabulary=build_vocabulary(prompts))
    model = new_model(recipe.model, heads)
    choose_trained(model, ())
    with torch.no_grad():
        for parameter in model.module_dict().parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.train(True)
    return build_task(recipe, model, videos, print), model


def vision(recipe: str, repeats: int) -> None:
    """Forward against stock open_clip, forward and backward against the plain formulation."""
    _, model = make(recipe)
    clip: Any = model.video_clip
    video = torch.randn(2, 8, 3, 224, 224)

    def backward(embed: Callable[[], Tensor]) -> None:
        embed().square().mean().backward()

    with torch.no_grad():
        ours, theirs = clip.encode_video(video), naive.frame_embeddings(clip, video)[0].mean(dim=1)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        forward = medians(
            {
                "ours": lambda: clip.encode_video(video),
                "stock": lambda: clip.backbone.encode_image(video.flatten(0, 1)),
            },
            repeats,
        )
    print(f"{recipe} forward: {forward['ours'] / forward['stock']:.2f} of stock open_clip", flush=True)
    step = medians(
        {
            "ours": lambda: backward(lambda: clip.encode_video(video)),
            "naive": lambda: backward(lambda: naive.frame_embeddings(clip, video)[0].mean(dim=1)),
        },
        repeats,
    )
    print(f"{recipe} step: {step['ours'] / step['naive']:.2f} of the plain formulation", flush=True)


def whole_step(repeats: int) -> None:
    """All four losses at 400 classes: equal losses and gradients first, then the times."""
    task, model = make("m2clip-k400")
    video, labels = torch.randn(2, 8, 3, 224, 224), torch.tensor([3, 77])
    templates = choose_templates("video")
    class_tokens = model.backbone.tokenize([templates[0].format(name) for name in CLASSES])

    def ours() -> Tensor:
        torch.manual_seed(0)
        loss = task(video, labels, labels)["loss"]
        loss.backward()
        return loss.detach()

    def plain() -> Tensor:
        loss = naive.losses(task, video, labels, class_tokens)
        loss.backward()
        return loss.detach()

    found = {}
    for name, run in (("ours", ours), ("naive", plain)):
        task.zero_grad()
        loss = run()
        gradients = {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}
        found[name] = (loss, gradients)
    largest = 0.0
    for name, gradient in found["naive"][1].items():
        difference = (found["ours"][1][name] - gradient).norm() / gradient.norm().clamp(min=1e-12)
        largest = max(largest, float(difference))
    assert found["ours"][1].keys() == found["naive"][1].keys()
    print(
        f"whole step: loss {float(found['ours'][0]):.6f}, plainly {float(found['naive'][0]):.6f}; "
        f"largest relative difference of a gradient {largest:.1e}"
    )
    times = medians({"ours": ours, "naive": plain}, repeats)
    print(
        f"whole step, 400 classes: {times['ours'] / times['naive']:.2f} of the plain formulation", flush=True
    )


def one_step(*, checkpointing: bool) -> None:
    """Peak memory of a step over what the process had before it. Linux only: from /proc."""
    task, model = make("m2clip-k400")
    model.video_clip.gradient_checkpointing = checkpointing
    video, labels = torch.randn(2, 8, 3, 224, 224), torch.tensor([3, 77])
    task(video[:1, :1], labels[:1], labels[:1])  # text is prepared here
    peak_memory()
    before = peak_memory()
    task(video, labels, labels)["loss"].backward()
    peak = peak_memory()
    print(f"{peak / 2**20:,.0f} MiB, of which {(peak - before) / 2**20:,.0f} MiB over the step's start")


def peak_memory() -> int:
    """Bytes that this process held at most since the last call, and start anew from what it holds now."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def medians(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each, taken in turn after one run of each that does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


if __name__ == "__main__":
    typer.run(main)
