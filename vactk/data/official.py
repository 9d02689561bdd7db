"""Finds each benchmark's official annotation files in a tree, and reads them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from vactk.data.annotations.entries import Annotations, Entry
from vactk.data.annotations.hmdb51 import read_hmdb51
from vactk.data.annotations.kinetics import read_kinetics_csv, read_kinetics_json
from vactk.data.annotations.msrvtt import read_msrvtt_csv, read_msrvtt_json
from vactk.data.annotations.ssv2 import read_ssv2_answers, read_ssv2_labels, read_ssv2_list
from vactk.data.annotations.ucf101 import read_ucf101
from vactk.data.classes import known_classes
from vactk.data.tree import Tree

Reader = Callable[[Tree], Annotations | None]  # None: the files are not there


def find_hmdb51(tree: Tree) -> Annotations | None:
    """The folder of `*_test_split1.txt` files, usually testTrainMulti_7030_splits."""
    found = tree.matching("*_test_split[0-9].txt")
    return read_hmdb51(found[0].parent) if found else None


def find_ucf101(tree: Tree) -> Annotations | None:
    """The folder of classInd.txt, usually ucfTrainTestlist."""
    found = tree.matching("classInd.txt")
    return read_ucf101(found[0].parent) if found else None


def find_kinetics(dataset: str) -> Reader:
    """Every CSV with Kinetics' columns, else the JSON lists; splits `train`, `val` and `test`."""

    def find(tree: Tree) -> Annotations | None:
        named = tree.matching("*.csv", "*.txt")
        tables = [read_kinetics_csv(path) for path in named if _is_kinetics(path)]
        if not tables:
            lists = tree.matching("train.json", "val*.json", "test.json", "kinetics*.json")
            tables = [read_kinetics_json(path) for path in lists]
        if not tables:
            return None
        return Annotations(classes=tuple(known_classes(dataset)), splits=_first_of_each(tables))

    return find


def find_ssv2(tree: Tree) -> Annotations | None:
    """The label table, the lists `train`, `val` and `test`, and the test's answers where they are there."""
    labels = tree.matching("*labels.json")
    splits = {}
    for name, pattern in {"train": "*train*.json", "val": "*validation*.json", "test": "*test*.json"}.items():
        for path in tree.matching(pattern)[:1]:
            splits[name] = read_ssv2_list(path).entries
    for path in tree.matching("*test-answers.csv")[:1]:
        splits["test"] = read_ssv2_answers(path).entries
    if not labels or not splits:
        return None
    return Annotations(classes=read_ssv2_labels(labels[0]).classes, splits=splits)


def find_msrvtt(tree: Tree) -> Annotations | None:
    """The official splits `train`, `val`, `test`, all of them as `full`, and the lists of 1k-A.

    `test1k` is the test of 1k-A with its one caption a video; `train9k` and `train7k` are its training
    lists, with the captions of the JSON. Without a list of 9k, it is all but the 1k videos.
    """
    files = [*tree.matching("MSRVTT_data*.json"), *tree.matching("*videodatainfo*.json")]
    official = [read_msrvtt_json(path) for path in files]
    splits = _first_of_each(official)
    everything = [entry for entries in splits.values() for entry in entries]
    if everything:
        splits["full"] = tuple(everything)
    by_id = {entry.video: entry for entry in everything}
    patterns = {"test1k": "*JSFUSION*.csv", "train9k": "*train*9k*.csv", "train7k": "*train*7k*.csv"}
    for name, pattern in patterns.items():
        for path in tree.matching(pattern)[:1]:
            listed = read_msrvtt_csv(path).entries
            splits[name] = tuple(e if e.captions else by_id.get(e.video, e) for e in listed)
    if "test1k" in splits and by_id and "train9k" not in splits:
        tested = {entry.video for entry in splits["test1k"]}
        splits["train9k"] = tuple(entry for entry in everything if entry.video not in tested)
    if not splits:
        return None
    return Annotations(splits=splits, problems=tuple(p for found in official for p in found.problems))


def _first_of_each(tables: Iterable[Annotations]) -> dict[str, tuple[Entry, ...]]:
    splits: dict[str, tuple[Entry, ...]] = {}
    for table in tables:
        for name, entries in table.splits.items():
            splits.setdefault(name, entries)
    return splits


def _is_kinetics(path: Path) -> bool:
    with path.open("rb") as file:
        return any(b"youtube_id" in line for line in islice(file, 1))
