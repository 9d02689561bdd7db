"""Halves and parts of a dataset's classes, by rules that anyone can repeat."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from vactk.data.classes import known_classes, match_key
from vactk.data.records import VideoSet


def random_halves(num_classes: int, draws: int, seed: int) -> list[tuple[int, ...]]:
    """Return `draws` random halves of the classes, rounded down and in class order, from one seeded generator.

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
    """The classes that are the more frequent half of training labels, rounded up, and the others.

    The rule of ViFi-CLIP, section 4.1. Classes that are equally frequent come in their order, the later ones
    into the base: so ViFi-CLIP's lists of HMDB51 and UCF101 come out.
    """
    counts = Counter(labels)
    order = sorted(range(num_classes), key=lambda number: counts[number])
    num_novel = num_classes // 2
    return tuple(sorted(order[num_novel:])), tuple(sorted(order[:num_novel]))


def not_in_k400(classes: Sequence[str]) -> tuple[int, ...]:
    """The classes whose names Kinetics-400 has not."""
    known = {match_key(label) for label in known_classes("k400")}
    return tuple(number for number, label in enumerate(classes) if match_key(label) not in known)


def with_classes(videos: VideoSet, chosen: Collection[int]) -> VideoSet:
    """The videos of some classes, which are numbered anew, in their order."""
    numbers = {old: new for new, old in enumerate(sorted(chosen))}
    places = [place for place, record in enumerate(videos.records) if record.label in numbers]
    records = tuple(
        dataclasses.replace(videos.records[place], label=numbers[videos.records[place].label or 0])
        for place in places
    )
    return dataclasses.replace(
        videos,
        classes=tuple(videos.classes[old] for old in numbers),
        words=tuple(videos.words[old] for old in numbers),
        records=records,
        missing=frozenset(new for new, place in enumerate(places) if place in videos.missing),
    )
