"""A dataset of a few tiny clips, and a recipe that trains on it in seconds."""

from __future__ import annotations

import pytest
import torch

from vactk.config import build, merge, parse_overrides
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split
from vactk.recipes import read_recipe
from vactk.train.forward_backward import ForwardBackward
from vactk.train.recipe import Recipe

CLASSES = ("star moving left", "star moving right", "fish moving left")
SMALL_SPLITS = {
    "train": Split(classes=CLASSES, videos_per_class=5, seed=0),
    "seen": Split(classes=CLASSES, videos_per_class=2, seed=1),
    "unseen": Split(classes=("fish moving right", "key moving left"), videos_per_class=2, seed=2),
}
QUICK = ["data.workers=0", "data.num_frames=2", "run.batch_size=4", "run.epochs=2", "run.save_every=0.5"]


@pytest.fixture
def small_shapes(monkeypatch, tmp_path):
    """`shapes` with a handful of clips, made under tmp_path."""
    for name, split in SMALL_SPLITS.items():
        monkeypatch.setitem(clips.SPLITS, name, split)
    monkeypatch.setenv("VACTK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def quick_recipe():
    """A function that gives the quick recipe with further settings."""

    def make(*settings: str) -> Recipe:
        overrides = parse_overrides([*QUICK, *settings])
        return build(Recipe, merge(read_recipe("m2clip-shapes"), overrides))

    return make


class Quiet:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.steps: list[dict[str, float]] = []
        self.on_step = lambda step: None

    def message(self, text: str) -> None:
        self.messages.append(text)

    def progress(self, what: str):
        return lambda done, total: None

    def step(self, step, total_steps, epoch, values) -> None:
        self.steps.append(values)
        self.on_step(step)


@pytest.fixture
def reporter():
    return Quiet()


def poison(monkeypatch, is_poisoned):
    """Make the losses NaN where `is_poisoned(passes, step)`, with the number of the step from 1."""
    run, losses = ForwardBackward.run, ForwardBackward.losses

    def noting_the_step(self, step, *rest):
        self.poisoned = is_poisoned(self, step + 1)
        return run(self, step, *rest)

    def poisoned(self, batch):
        found = losses(self, batch)
        return {**found, "loss": found["loss"] * torch.nan} if self.poisoned else found

    monkeypatch.setattr(ForwardBackward, "run", noting_the_step)
    monkeypatch.setattr(ForwardBackward, "losses", poisoned)
