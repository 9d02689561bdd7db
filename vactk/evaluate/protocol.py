"""Evaluation protocols as data: classes, videos, repetitions, and the published results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from vactk.config import build, read_yaml
from vactk.errors import VactkError, pick

FOLDER = Path(__file__).parent / "protocols"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A published way to report results on a dataset. `splits` or `lists` say which videos are used.

    There is a result for each split, list or draw, and their mean and standard deviation.
    """

    name: str = ""  # "dataset/protocol"
    title: str
    source: str  # where it was published, or what the published word leaves open
    task: Literal["zero-shot", "retrieval"] = "zero-shot"
    splits: tuple[str, ...] = ()  # of the dataset, one result each; a+b is both together
    lists: tuple[str, ...] = ()  # name patterns of record lists under the data root; {draw} counts from 1
    class_tables: tuple[str, ...] = ()  # name patterns of the class tables that belong to them
    classes: Literal["all", "half", "base_novel", "not_in_k400", "listed"] = "all"
    draws: int = 1
    seed: int = 0  # of the draws
    train_split: str = ""  # what a model may have been trained on
    shots: int = 0  # videos of each class in training; 0: all
    num_classes: int = 0  # of a result, as published; 0: not said
    num_videos: tuple[int, ...] = ()  # of each result, as published
    hash: str = ""  # of the content as the official files give it; empty where these were not to be had

    def __post_init__(self) -> None:
        if bool(self.splits) == bool(self.lists):
            raise VactkError("a protocol names either splits or lists")
        if self.classes == "listed" and not self.class_tables:
            raise VactkError("a protocol with listed classes names class_tables")

    @property
    def dataset(self) -> str:
        return self.name.partition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Published:
    """One number of a paper or a project's page."""

    protocol: str
    method: str
    backbone: str
    metric: Literal["top1", "base", "novel", "harmonic_mean", "R@1", "R@5", "R@10"]
    value: float  # per cent
    sd: float | None = None  # over the protocol's results
    source: str


@lru_cache
def published() -> tuple[Published, ...]:
    """Return all published results that vactk knows the source of."""
    rows = read_yaml(FOLDER.parent / "published.yaml")["published"]
    return tuple(build(Published, row) for row in rows)


@lru_cache
def protocols() -> dict[str, Protocol]:
    """Return all protocols by name."""
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        for key, values in read_yaml(path).items():
            name = f"{path.stem}/{key}"
            found[name] = replace(build(Protocol, values), name=name)
    return found


def retrieval_protocol(dataset: str, split: str) -> str:
    """Return the name of the retrieval protocol that is this one split, or "dataset/split" where there is none."""
    own = (p for p in protocols().values() if p.dataset == dataset and p.task == "retrieval")
    return next((p.name for p in own if p.splits == (split,)), f"{dataset}/{split}")


def find_protocol(name: str) -> Protocol:
    """Return a protocol by name, ignoring case. Raises VactkError with the nearest match."""
    return pick(protocols(), name.lower(), "protocol")
