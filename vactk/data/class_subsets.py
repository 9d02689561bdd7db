"""Reproducible subsets of a dataset: random halves, base and novel classes, few-shot samples, held-out videos."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import torch

from vactk.data.annotations.classes import known_classes, match_key
from vactk.data.recordings import choose_held_out, recordings
from vactk.data.records import VideoSet
from vactk.errors import VactkError

MIN_TO_SHARE = 3  # videos of a class from which some can be held out


def random_halves(num_classes: int, draws: int, seed: int) -> list[tuple[int, ...]]:
    """Return `draws` random halves of the class numbers, rounded down and sorted, from one seeded generator.

    The draws of Open-VCLIP's release (zs_label_db/*_half_test): each shuffles 0..n-1 anew and keeps the first half.
    """
    generator = random.Random(seed)
    halves = []
    for _ in range(draws):
        numbers = list(range(num_classes))
        generator.shuffle(numbers)
        halves.append(tuple(sorted(numbers[: num_classes // 2])))
    return halves


def base_and_novel(labels: Iterable[int], num_classes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (base, novel) class numbers: the more frequent half of the training labels, rounded up, and the rest.

    The rule of ViFi-CLIP, section 4.1. Of equally frequent classes, later ones go into the base, which reproduces
    ViFi-CLIP's lists of HMDB51 and UCF101.
    """
    counts = Counter(labels)
    order = sorted(range(num_classes), key=lambda number: counts[number])
    num_novel = num_classes // 2
    return tuple(sorted(order[num_novel:])), tuple(sorted(order[:num_novel]))


def not_in_k400(classes: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers of the classes that are not in Kinetics-400, by name."""
    known = {match_key(label) for label in known_classes("k400")}
    return tuple(number for number, label in enumerate(classes) if match_key(label) not in known)


def with_classes(videos: VideoSet, chosen: Collection[int]) -> VideoSet:
    """Return the videos of the chosen classes, which are renumbered in their order."""
    numbers = {old: new for new, old in enumerate(sorted(chosen))}
    kept = [index for index, record in enumerate(videos.records) if record.label in numbers]
    records = tuple(
        dataclasses.replace(videos.records[index], label=numbers[videos.records[index].label or 0])
        for index in kept
    )
    return dataclasses.replace(
        videos,
        classes=tuple(videos.classes[old] for old in numbers),
        words=tuple(videos.words[old] for old in numbers),
        records=records,
        missing=frozenset(new for new, old in enumerate(kept) if old in videos.missing),
    )


def hold_out(videos: VideoSet, share: float, seed: int) -> tuple[VideoSet, VideoSet]:
    """Return the videos but a share of each class, sampled with `seed`, and that share: whole recordings.

    Classes with fewer than MIN_TO_SHARE videos keep all of theirs.
    """
    labels = [record.label for record in videos.records]
    wanted = {
        label: max(1, round(share * count)) if count >= MIN_TO_SHARE else 0
        for label, count in Counter(labels).items()
    }
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    held = choose_held_out(labels, recordings_of(videos), wanted, order)
    rest, kept = (
        dataclasses.replace(
            videos, records=tuple(r for index, r in enumerate(videos.records) if (index in held) == is_held)
        )
        for is_held in (False, True)
    )
    return rest, dataclasses.replace(kept, split=f"{videos.split}, held out")


def recordings_of(videos: VideoSet) -> list[str]:
    """Return the recording that each record belongs to."""
    return recordings([str(r.video) for r in videos.records], [r.label for r in videos.records])


def sample_shots(videos: VideoSet, shots: int, seed: int) -> VideoSet:
    """Return `shots` videos per class, sampled with `seed`; with the same seed, fewer shots are a subset of more.

    Raises VactkError when a class has fewer than `shots` videos.
    """
    counts = Counter(record.label for record in videos.records)
    short = [name for label, name in enumerate(videos.classes) if counts[label] < shots]
    if short:
        fewest = min(counts[label] for label in range(len(videos.classes)))
        raise VactkError(
            f"{shots} shots need {shots} videos of every class, but {len(short)} classes of "
            f"{videos.name}/{videos.split} have fewer, such as '{short[0]}'; the most possible is {fewest}"
        )
    left = dict.fromkeys(range(len(videos.classes)), shots)
    chosen = []
    for index in torch.randperm(len(videos.records), generator=torch.Generator().manual_seed(seed)).tolist():
        label = videos.records[index].label
        if label is not None and left[label]:
            left[label] -= 1
            chosen.append(index)
    records = tuple(videos.records[index] for index in sorted(chosen))
    return dataclasses.replace(videos, records=records)
