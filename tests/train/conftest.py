"""A dataset of a few tiny clips, and a recipe that trains on it in seconds."""

from __future__ import annotations

import pytest

from vactk.config import build, merge, parse_overrides
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split
from vactk.train.recipe import Recipe, read_recipe

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
