"""What a user should know about a run before relying on it: too little data, a loss that stays, mere guessing."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vactk.data.recordings import RECORDING, recordings, single_recordings
from vactk.data.records import VideoSet
from vactk.data.tools.check import find_duplicates

FEW_VIDEOS = 5  # of a class, fewer than which rarely suffice
MUCH_UNEVEN = 3.0  # ratio of the largest class to the smallest that deserves a warning
SHOWN = 5  # classes that a warning names
MIN_LINES = 20  # of metrics.jsonl, to compare its beginning and its end
FALL = 0.05  # share of its first value by which a loss that trains falls
LUCK = 0.05  # probability of an accuracy by guessing below which it is above chance


def class_warnings(train: VideoSet, *, balanced: bool) -> list[str]:
    """Return warnings of classes with few training videos, and of many more of one than of another."""
    counts = Counter(dict.fromkeys(range(len(train.classes)), 0))
    counts.update(record.label for record in train.records if record.label is not None)
    found = []
    few = [number for number, count in counts.items() if count < FEW_VIDEOS]
    if few:
        named = [f"'{train.classes[number]}' ({counts[number]})" for number in few]
        found.append(
            f"too few training videos of {_listed(named)}: fewer than {FEW_VIDEOS} of a class rarely suffice"
        )
    largest, smallest = (pick(counts, key=lambda number: counts[number]) for pick in (max, min))
    if counts[largest] > MUCH_UNEVEN * counts[smallest]:
        way = (
            "each class is drawn equally often" if balanced else "run.balance=always draws each equally often"
        )
        found.append(
            f"classes are uneven: {counts[largest]} training videos of '{train.classes[largest]}', "
            f"{counts[smallest]} of '{train.classes[smallest]}'; {way}"
        )
    return found


def overlap_warnings(train: VideoSet, others: Sequence[VideoSet]) -> list[str]:
    """Return warnings of content that training videos share with those of `others`, by bytes and by names."""
    found = []
    for videos in others:
        own, theirs = ({str(record.video) for record in some.records} for some in (train, videos))
        copies = find_duplicates([record.video for some in (train, videos) for record in some.records])
        shared = [group for group in copies if own & set(group) and theirs & set(group)]
        shared += [[path, path] for path in sorted(own & theirs)]
        where = f"{train.split} and {videos.split} share content"
        if shared:
            one, other = shared[0][0], shared[0][-1]
            found.append(
                f"{where}: {len(shared)} files are in both, such as '{one}' and '{other}'; the accuracy is too good"
            )
            continue
        pieces = _shared_recordings(train, videos)
        if pieces:
            found.append(
                f"{where}: by their names, pieces of {len(pieces)} recordings are in both, such as "
                f"'{min(pieces)}'; the accuracy says little about other recordings"
            )
    return found


def split_warnings(whole: Sequence[VideoSet]) -> list[str]:
    """Return warnings of classes whose videos, in all of `whole` together, are pieces of one recording."""
    records = [(str(r.video), videos.classes[r.label or 0]) for videos in whole for r in videos.records]
    single = single_recordings([path for path, _ in records], [label for _, label in records])
    if not single:
        return []
    named = _listed([repr(label) for label in single])
    text = f"all videos of {named} are pieces of one recording: those held out resemble the others, and the "
    return [text + "accuracy says little about other recordings"]


def loss_warnings(losses: Sequence[float]) -> list[str]:
    """Return a warning where the loss, given for the steps in order, is no lower at the end than at first."""
    if len(losses) < MIN_LINES:
        return []
    share = len(losses) // 10
    first, last = statistics.fmean(losses[:share]), statistics.fmean(losses[-share:])
    if last < first - FALL * abs(first):
        return []
    text = f"the loss did not move: {first:.4g} at first, {last:.4g} at the end"
    return [f"{text}; raise optim.lr, or take more steps (run.min_steps)"]


def chance_warnings(result: Mapping[str, Any], videos: VideoSet) -> list[str]:
    """Return a warning where an evaluation's top-1 is no better than guessing the most frequent class."""
    num_videos = len(videos.records)
    labels = Counter(record.label for record in videos.records if record.label is not None)
    if not labels or len(videos.classes) < 2:
        return []
    chance = max(1 / len(videos.classes), max(labels.values()) / num_videos)
    needed = least_above_chance(num_videos, chance)
    right = round(result["top1"] * num_videos / 100)
    if right >= needed:
        return []
    name = f"{videos.name}/{videos.split}"
    if needed > num_videos:
        return [f"{name} has too few videos ({num_videos}) to tell the accuracy from guessing"]
    text = f"{name}: {right} of {num_videos} videos right ({result['top1']:.1f}%) is not above guessing, which gets"
    return [
        f"{text} {100 * chance:.1f}% and up to {needed - 1} by luck: the model has not learnt these classes"
    ]


def least_above_chance(num_videos: int, chance: float) -> int:
    """Return the least number of right answers that guessing reaches with a probability below LUCK (binomial)."""
    if chance >= 1:
        return num_videos + 1
    tail = 0.0
    for right in range(num_videos, -1, -1):
        ways = math.lgamma(num_videos + 1) - math.lgamma(right + 1) - math.lgamma(num_videos - right + 1)
        tail += math.exp(ways + right * math.log(chance) + (num_videos - right) * math.log1p(-chance))
        if tail >= LUCK:
            return right + 1
    return 0


def _shared_recordings(one: VideoSet, other: VideoSet) -> set[str]:
    """Return the names of the recordings that have pieces in both."""
    records = [
        (str(r.video), videos.classes[r.label or 0]) for videos in (one, other) for r in videos.records
    ]
    keys = recordings([path for path, _ in records], [label for _, label in records])
    count = len(one.records)
    return {
        key.removeprefix(RECORDING) for key in {*keys[:count]} & {*keys[count:]} if key.startswith(RECORDING)
    }


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
