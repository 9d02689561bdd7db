"""The datasets that vactk knows by name, and the user's own by their path."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vactk.data.benchmarks import ALIASES, BENCHMARKS, Benchmark
from vactk.data.official import few_shot_list
from vactk.data.records import VideoSet
from vactk.data.shapes import load_shapes
from vactk.data.subsets import with_classes
from vactk.data.user_data import is_user_data, open_user_data
from vactk.errors import pick

HALVES = ("base", "novel")

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
    eval_splits: tuple[str, ...]  # measured after training
    recipe: str  # its settings hold unless others are given
    test_split: str  # measured by zero-shot testing
    retrieval_split: str = ""  # searched, and measured by retrieval; empty: the test split
    labelled: bool = True  # False: captions, no classes
    finetune_recipe: str = "openvclip-k400"  # the same for fine-tuning


def find_dataset(name: str) -> Dataset:
    """The dataset called `name`, or the user's folder or list of that path.

    `hmdb51/base` and `hmdb51/novel` are the more frequent half of a benchmark's classes and the others;
    `hmdb51/few-shot-16` and `hmdb51/base-s1` are trained on by ViFi-CLIP's lists. Raises VactkError with the
    nearest match when there is none.
    """
    whole, _, part = name.partition("/")
    benchmark = BENCHMARKS.get(ALIASES.get(whole.lower(), whole))
    if benchmark is not None and part in HALVES:
        return _half(benchmark, part)
    if benchmark is not None and few_shot_list(part):
        whole_or_half = _half(benchmark, "base") if part.startswith("base") else _public_dataset(benchmark)
        return dataclasses.replace(whole_or_half, train_split=part)
    known = ALIASES.get(name.lower(), name)
    if known not in DATASETS and is_user_data(name):
        return _user_dataset(Path(name))
    return pick(DATASETS, known, "dataset")


def _user_dataset(path: Path) -> Dataset:
    data = open_user_data(path)

    def load(split: str, *, root: Path | None = None, progress: Progress | None = None) -> VideoSet:
        pick(dict.fromkeys(data.names()), split, f"split of {path}")
        return data.load(split, root=root)

    return Dataset(
        load=load,
        train_split=data.train,
        eval_splits=(data.test,) if data.test else (),
        recipe="m2clip-hmdb51",
        test_split=data.test if data.test in data.splits else "all",
        labelled=bool(data.annotations.classes),
    )


def _half(benchmark: Benchmark, half: str) -> Dataset:
    def load(split: str, *, root: Path | None = None, progress: Progress | None = None) -> VideoSet:
        chosen = benchmark.halves(root)[HALVES.index(half)]
        videos = with_classes(benchmark.load(split, root=root), chosen)
        return dataclasses.replace(videos, name=f"{benchmark.name}/{half}")

    return dataclasses.replace(_public_dataset(benchmark), load=load)


def _public_dataset(benchmark: Benchmark) -> Dataset:
    return Dataset(
        load=benchmark.load,
        train_split=benchmark.train_split,
        eval_splits=benchmark.eval_splits,
        recipe=benchmark.recipe,
        finetune_recipe=benchmark.finetune_recipe,
        test_split=benchmark.eval_splits[-1],
        labelled=benchmark.labelled,
    )


DATASETS = {
    "shapes": Dataset(
        load=load_shapes,
        train_split="train",
        eval_splits=("seen", "unseen"),
        recipe="m2clip-shapes",
        test_split="unseen",
        retrieval_split="retrieval",
        finetune_recipe="openvclip-shapes",
    ),
    **{name: _public_dataset(benchmark) for name, benchmark in BENCHMARKS.items()},
}
