"""Locating and reading each benchmark's official annotation files in a file tree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from vactk.data.annotations.classes import known_classes
from vactk.data.annotations.entries import AnnotationEntry, Annotations
from vactk.data.annotations.hmdb51 import read_hmdb51
from vactk.data.annotations.kinetics import read_kinetics_csv, read_kinetics_json
from vactk.data.annotations.lists import read_list
from vactk.data.annotations.msrvtt import read_caption_numbers, read_msrvtt_csv, read_msrvtt_json
from vactk.data.annotations.ssv2 import read_ssv2_answers, read_ssv2_labels, read_ssv2_list
from vactk.data.annotations.ucf101 import read_ucf101
from vactk.data.file_tree import FileTree

Locator = Callable[[FileTree], Annotations | None]  # None: there are no such files


def locate_hmdb51(tree: FileTree) -> Annotations | None:
    """Read the folder of `*_test_split1.txt` files, usually testTrainMulti_7030_splits."""
    found = tree.matching("*_test_split[0-9].txt")
    return read_hmdb51(found[0].parent) if found else None


def locate_ucf101(tree: FileTree) -> Annotations | None:
    """Read the folder of classInd.txt, usually ucfTrainTestlist."""
    found = tree.matching("classInd.txt")
    return read_ucf101(found[0].parent) if found else None


# ViFi-CLIP's few-shot lists, a name and a number per line, by the prefix of the split that each is read as.
FEW_SHOT_LISTS = {"few-shot-": "train1_few_shot_{}.txt", "base-s": "fs_base_s{}_train.txt"}


def few_shot_list(split: str) -> str | None:
    """Return the file name of the list of a split such as `few-shot-16` or `base-s1`; None for other splits."""
    prefix = split.rstrip("0123456789")
    return FEW_SHOT_LISTS[prefix].format(split[len(prefix) :]) if prefix in FEW_SHOT_LISTS else None


def with_few_shot_lists(found: Annotations, train_split: str, tree: FileTree) -> Annotations:
    """Add a split for each of ViFi-CLIP's lists in the tree.

    Labels are taken from the training split: ViFi-CLIP's numbers of HMDB51 differ from its own class table. A list
    without any video of the training split belongs to another dataset and is ignored.
    """
    known = {entry.key: entry for entry in found.splits.get(train_split, ())}
    splits, problems = dict(found.splits), list(found.problems)
    for prefix, pattern in FEW_SHOT_LISTS.items():
        before, after = pattern.split("{}")
        for path in tree.matching(pattern.format("*")):
            keys = [entry.key for entry in read_list(path).entries]
            if not any(key in known for key in keys):
                continue
            split = f"{prefix}{path.name[len(before) : -len(after)]}"
            splits.setdefault(split, tuple(known[key] for key in keys if key in known))
            others = [key for key in keys if key not in known]
            if others:
                such = f"that are not in {train_split}, such as '{others[0]}'"
                problems.append(f"'{path}' lists {len(others):,} videos {such}")
    return dataclasses.replace(found, splits=splits, problems=tuple(problems))


def locate_kinetics(dataset: str) -> Locator:
    """Return the locator of all CSV files with Kinetics' columns, else the JSON lists."""

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
    """Read the label table, the lists `train`, `val` and `test`, and the test labels if present."""
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


# Files that list a split of MSR-VTT, in the order of preference.
MSRVTT_LISTS = {
    "train": ("train_list_full.txt",),
    "val": ("val_list_full.txt",),
    "test": ("test_list_full.txt",),
    "test1k": ("*JSFUSION*.csv",),
    "train9k": ("*train*9k*.csv", "*train*9k*.txt", "*train*jsfusion*.txt", "*jsfusion*train*.txt"),
    "train7k": ("*train*7k*.csv", "*train*7k*.txt"),
}


def locate_msrvtt(tree: FileTree) -> Annotations | None:
    """Read the official splits `train`, `val`, `test`, their union `full`, and the lists of 1k-A.

    `test1k` is the test split of 1k-A with its one caption per video; `train9k` and `train7k` are its training
    lists, with the captions of the JSON. Without a list, `train9k` is all but the 1k videos.
    """
    found = [read_msrvtt_json(path) for path in tree.matching("MSRVTT_data*.json", "*videodatainfo*.json")]
    whole = [read_msrvtt_json(path) for path in tree.matching("MSR_VTT.json")]
    splits = _first_of_each(found)
    problems = [problem for annotations in found for problem in annotations.problems]
    unsplit = {entry.video: entry for annotations in whole for entry in annotations.entries}
    by_id = unsplit | {entry.video: entry for entries in splits.values() for entry in entries}
    for name, patterns in MSRVTT_LISTS.items():
        for path in tree.matching(*patterns)[:1] if name not in splits else ():
            listed = read_msrvtt_csv(path).entries
            splits[name] = tuple(e if e.captions else by_id.get(e.video, e) for e in listed)
            problems += _without_captions(path, splits[name], by_id)
    if "test1k" not in splits:
        test, why_not = _jsfusion_test(tree, unsplit)
        splits |= {"test1k": test} if test else {}
        problems += why_not
    if by_id:
        splits["full"] = tuple(by_id.values())
    if "test1k" in splits and by_id and "train9k" not in splits:
        held_out = {entry.video for entry in splits["test1k"]}
        splits["train9k"] = tuple(entry for entry in by_id.values() if entry.video not in held_out)
    return Annotations(splits=splits, problems=tuple(problems)) if splits else None


def _without_captions(
    path: Path, entries: Sequence[AnnotationEntry], by_id: dict[str, AnnotationEntry]
) -> list[str]:
    bare = [entry.video for entry in entries if not entry.captions]
    if not bare or not by_id:
        return []
    return [f"{path.name} lists {len(bare):,} videos without captions, such as '{bare[0]}'"]


def _jsfusion_test(
    tree: FileTree, by_id: dict[str, AnnotationEntry]
) -> tuple[tuple[AnnotationEntry, ...], list[str]]:
    """Return 1k-A's test split, by its lists of ids and of caption numbers, or why it cannot be read."""
    lists = tree.matching("val_list_jsfusion.txt", "jsfusion_val_list.txt")
    if not lists:
        return (), []
    tables = tree.matching("*jsfusion_val_caption_idx.pkl")
    numbers = read_caption_numbers(tables[0]) if tables else {}
    entries = []
    for listed in read_msrvtt_csv(lists[0]).entries:
        captions = by_id.get(listed.video, listed).captions
        number = numbers.get(listed.video, -1)
        if not 0 <= number < len(captions):
            what = f"{lists[0].name} does not say which caption 1k-A uses for '{listed.video}'"
            return (), [
                f"{what}; add MSRVTT_JSFUSION_test.csv, or MSR_VTT.json and jsfusion_val_caption_idx.pkl"
            ]
        entries.append(dataclasses.replace(by_id[listed.video], captions=(captions[number],)))
    return tuple(entries), []


def _first_of_each(tables: Iterable[Annotations]) -> dict[str, tuple[AnnotationEntry, ...]]:
    splits: dict[str, tuple[AnnotationEntry, ...]] = {}
    for table in tables:
        for name, entries in table.splits.items():
            splits.setdefault(name, entries)
    return splits


def _is_kinetics(path: Path) -> bool:
    with path.open("rb") as file:
        return any(b"youtube_id" in line for line in islice(file, 1))
