"""Datasets by name, and the user's own by path."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vactk.data.benchmarks import ALIASES, BENCHMARKS, Benchmark
from vactk.data.class_subsets import with_classes
from vactk.data.custom_dataset import is_custom_dataset, open_custom_dataset
from vactk.data.find_annotations import few_shot_list
from vactk.data.records import VideoSet
from vactk.data.shapes import load_shapes
from vactk.errors import VactkError, nearest, pick
from vactk.progress import Progress

HALVES = ("base", "novel")


class Loader(Protocol):
    """Loads one split, generating its files where needed."""

    def __call__(
        self, split: str, *, root: Path | None = None, progress: Progress | None = None
    ) -> VideoSet: ...


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """How a dataset is loaded, with its default splits and recipes."""

    load: Loader
    train_split: str
    eval_splits: tuple[str, ...]  # evaluated after training
    recipe: str  # default training recipe
    test_split: str  # default split of zero-shot evaluation
    retrieval_split: str = ""  # default split of retrieval; empty: the test split
    labelled: bool = True  # False: captions, no classes
    own: bool = False  # the user's folder or list
    validation_split: str = ""  # of evaluations during training; empty: held out of the training videos
    derived: bool = False  # the test split is a part of the training videos, which names no split
    finetune_recipe: str = "openvclip-k400"  # default fine-tuning recipe


def find_dataset(name: str) -> Dataset:
    """Return the dataset called `name`, or the user's folder or list at that path.

    `hmdb51/base` and `hmdb51/novel` are the more frequent half of a benchmark's classes and the rest;
    `hmdb51/few-shot-16` and `hmdb51/base-s1` train on ViFi-CLIP's lists. Raises VactkError with the nearest match
    for an unknown name.
    """
    base_name, _, subset = name.partition("/")
    benchmark = BENCHMARKS.get(ALIASES.get(base_name.lower(), base_name))
    if benchmark is not None and subset in HALVES:
        return _half(benchmark, subset)
    if benchmark is not None and few_shot_list(subset):
        whole_or_half = _half(benchmark, "base") if subset.startswith("base") else _public_dataset(benchmark)
        return dataclasses.replace(whole_or_half, train_split=subset)
    known = ALIASES.get(name.lower(), name)
    if known not in DATASETS and is_custom_dataset(name):
        return _user_dataset(Path(name))
    if known not in DATASETS and nearest(known, DATASETS) is None:
        raise VactkError(
            f"there is no dataset, folder or list '{name}': choose from {', '.join(DATASETS)}, or name a folder "
            "with a folder per class, or a list of paths and labels"
        )
    return pick(DATASETS, known, "dataset")


def _user_dataset(path: Path) -> Dataset:
    data = open_custom_dataset(path)
    labelled = bool(data.annotations.classes)

    def load(split: str, *, root: Path | None = None, progress: Progress | None = None) -> VideoSet:
        pick(dict.fromkeys(data.names()), split, f"split of {path}")
        return data.load(split, root=root)

    return Dataset(
        load=load,
        train_split=data.train,
        eval_splits=(data.test,) if data.test else (),
        recipe="own-videos" if labelled else "adapters-msrvtt",
        test_split=data.test if data.test in data.splits else "all",
        labelled=labelled,
        finetune_recipe="own-videos-finetune" if labelled else "clip4clip-msrvtt",
        own=True,
        validation_split=data.validation or "",
        derived=data.test is not None and data.test not in data.splits,
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
