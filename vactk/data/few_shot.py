"""A few training videos of every class."""

from __future__ import annotations

import dataclasses
from collections import Counter

import torch

from vactk.data.records import VideoSet
from vactk.errors import VactkError


def draw_shots(videos: VideoSet, shots: int, seed: int) -> VideoSet:
    """`shots` videos of each class, drawn by `seed`; with one seed, fewer shots are a part of more.

    Raises VactkError when a class has no videos at all, or fewer than `shots`: then the result would not
    be what its name says.
    """
    counts = Counter(record.label for record in videos.records)
    short = [name for place, name in enumerate(videos.classes) if counts[place] < shots]
    if short:
        fewest = min(counts[place] for place in range(len(videos.classes)))
        raise VactkError(
            f"{shots} shots need as many videos of every class, but {len(short)} classes of "
            f"{videos.name}/{videos.split} have fewer, such as '{short[0]}'; ask for at most {fewest}"
        )
    left = dict.fromkeys(range(len(videos.classes)), shots)
    chosen = []
    for place in torch.randperm(len(videos.records), generator=torch.Generator().manual_seed(seed)).tolist():
        label = videos.records[place].label
        if label is not None and left[label]:
            left[label] -= 1
            chosen.append(place)
    records = tuple(videos.records[place] for place in sorted(chosen))
    return dataclasses.replace(videos, records=records)
