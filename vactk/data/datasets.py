"""The datasets that vactk knows by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vactk.data.records import VideoSet
from vactk.data.shapes import load_shapes
from vactk.errors import pick

Progress = Callable[[int, int], None]  # done, total


class Loader(Protocol):
    """Reads one split, making or checking its files where needed."""

    def __call__(
        self, split: str, *, root: Path | None = None, progress: Progress | None = None
    ) -> VideoSet: ...


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """How a dataset is read, and what is done with it when nothing else is asked for."""

    load: Loader
    train_split: str
    eval_splits: tuple[str, ...]  # measured after training, the last by default in zero-shot testing
    recipe: str  # its settings hold unless others are given
    finetune_recipe: str = "openvclip-k400"  # the same for fine-tuning


def find_dataset(name: str) -> Dataset:
    """The dataset called `name`. Raises VactkError with the nearest match when there is none."""
    return pick(DATASETS, name, "dataset")


DATASETS = {
    "shapes": Dataset(
        load=load_shapes,
        train_split="train",
        eval_splits=("seen", "unseen"),
        recipe="m2clip-shapes",
        finetune_recipe="openvclip-shapes",
    ),
}
