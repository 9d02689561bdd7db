"""Finds each benchmark's official annotation files in a tree, and reads them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from vactk.data.annotations.classes import known_classes, read_classes, read_word_table
from vactk.data.annotations.entries import AnnotationEntry, Annotations
from vactk.data.annotations.hmdb51 import read_hmdb51
from vactk.data.annotations.kinetics import read_kinetics_csv, read_kinetics_json
from vactk.data.annotations.lists import read_blank_list, read_comma_list, read_list
from vactk.data.annotations.msrvtt import read_msrvtt_csv, read_msrvtt_json
from vactk.data.annotations.ssv2 import read_ssv2_answers, read_ssv2_labels, read_ssv2_list
from vactk.data.annotations.ucf101 import read_ucf101
from vactk.data.file_tree import FileTree
from vactk.errors import pick

Reader = Callable[[FileTree], Annotations | None]  # None: the files are not there


def locate_hmdb51(tree: FileTree) -> Annotations | None:
    """The folder of `*_test_split1.txt` files, usually testTrainMulti_7030_splits."""
    found = tree.matching("*_test_split[0-9].txt")
    return read_hmdb51(found[0].parent) if found else None


def locate_ucf101(tree: FileTree) -> Annotations | None:
    """The folder of classInd.txt, usually ucfTrainTestlist."""
    found = tree.matching("classInd.txt")
    return read_ucf101(found[0].parent) if found else None


def locate_kinetics(dataset: str) -> Reader:
    """Every CSV with Kinetics' columns, else the JSON lists; splits `train`, `val` and `test`."""

    def find(tree: FileTree) -> Annotations | None:
        named = tree.matching("*.csv", "*.txt")
        tables = [read_kinetics_csv(path) for path in named if _is_kinetics(path)]
        if not tables:
            lists = tree.matching("train.json", "val*.json", "test.json", "kinetics*.json")
            tables = [read_kinetics_json(path) for path in lists]
        if not tables:
            return None
        return Annotations(classes=tuple(known_classes(dataset)), splits=_first_of_each(tables))

    return find


def locate_ssv2(tree: FileTree) -> Annotations | None:
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


def locate_msrvtt(tree: FileTree) -> Annotations | None:
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


def _first_of_each(tables: Iterable[Annotations]) -> dict[str, tuple[AnnotationEntry, ...]]:
    splits: dict[str, tuple[AnnotationEntry, ...]] = {}
    for table in tables:
        for name, entries in table.splits.items():
            splits.setdefault(name, entries)
    return splits


def _is_kinetics(path: Path) -> bool:
    with path.open("rb") as file:
        return any(b"youtube_id" in line for line in islice(file, 1))


def read_annotations(path: Path, form: str) -> Annotations:
    """The content of an annotation file or folder of a format in FORMATS. Raises VactkError where it is not so."""
    return pick(FORMATS, form, "annotation format")(path)


def _classes_only(read: Callable[[Path], tuple[str, ...]]) -> Callable[[Path], Annotations]:
    return lambda path: Annotations(classes=read(path))


FORMATS: dict[str, Callable[[Path], Annotations]] = {
    "hmdb51-splits": read_hmdb51,
    "ucf101-splits": read_ucf101,
    "kinetics-csv": read_kinetics_csv,
    "kinetics-json": read_kinetics_json,
    "ssv2-labels": read_ssv2_labels,
    "ssv2-list": read_ssv2_list,
    "ssv2-answers": read_ssv2_answers,
    "msrvtt-json": read_msrvtt_json,
    "msrvtt-csv": read_msrvtt_csv,
    "comma-list": read_comma_list,
    "blank-list": read_blank_list,
    "list": read_list,
    "classes": _classes_only(read_classes),
    "words": _classes_only(read_word_table),
}
