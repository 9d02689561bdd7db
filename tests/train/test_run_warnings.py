from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from vactk.data.records import Record, VideoSet
from vactk.train.run_warnings import (
    chance_warnings,
    class_warnings,
    least_above_chance,
    loss_warnings,
    overlap_warnings,
    split_warnings,
)


def videos(split, *counts, root=Path("x")):
    """A set with so many videos of the classes a, b, ..."""
    classes = tuple("abcdefgh"[: len(counts)])
    records = [
        Record(video=root / split / f"{classes[label]}{n}.mp4", label=label)
        for label, count in enumerate(counts)
        for n in range(count)
    ]
    return VideoSet(name="own", split=split, classes=classes, words=classes, records=tuple(records))


@pytest.mark.parametrize(("num_videos", "classes"), [(1, 2), (4, 2), (5, 2), (8, 4), (12, 3)])
def test_the_bound_of_guessing_is_that_of_all_ways_to_guess(num_videos, classes):
    ways = [sum(guess == 0 for guess in way) for way in itertools.product(range(classes), repeat=num_videos)]
    shares = [sum(right >= k for right in ways) / len(ways) for k in range(num_videos + 2)]
    expected = next(k for k, share in enumerate(shares) if share < 0.05)
    assert least_above_chance(num_videos, 1 / classes) == expected


def test_guessing_is_told_from_knowing():
    test = videos("test", 8, 8, 8, 8)
    assert least_above_chance(32, 0.25) == 13
    (text,) = chance_warnings({"top1": 100 * 12 / 32}, test)
    assert (
        "12 of 32 videos right (37.5%) is not above guessing, which gets 25.0% and up to 12 by luck" in text
    )
    assert chance_warnings({"top1": 100 * 13 / 32}, test) == []
    uneven = videos("test", 27, 5)  # always answering the more frequent class gets 84 %
    assert "guessing, which gets 84.4%" in chance_warnings({"top1": 87.5}, uneven)[0]
    assert "has too few videos (2) to tell" in chance_warnings({"top1": 100.0}, videos("test", 1, 1))[0]
    assert chance_warnings({"top1": 100.0}, videos("test", 40)) == []


def test_a_loss_that_stays_is_told_from_one_that_falls():
    (text,) = loss_warnings([1.399] * 15 + [1.397] * 15)
    assert "the loss did not move: 1.399 at first, 1.397 at the end; raise optim.lr" in text
    assert loss_warnings([1.4 - 0.01 * step for step in range(30)]) == []
    assert loss_warnings([1.4, 1.4]) == []


def test_few_videos_and_uneven_classes_are_named():
    few, uneven = class_warnings(videos("train", 40, 4), balanced=True)
    assert "too few training videos of 'b' (4)" in few
    assert "uneven: 40 training videos of 'a', 4 of 'b'; each class is drawn equally often" in uneven
    (text,) = class_warnings(videos("train", 40, 10), balanced=False)
    assert "run.balance=always" in text
    assert class_warnings(videos("train", 12, 5), balanced=False) == []
    assert (
        "'a' (1), 'b' (1), 'c' (1), 'd' (1), 'e' (1) and 1 more:"
        in class_warnings(videos("train", *[1] * 6), balanced=False)[0]
    )


def test_content_in_both_parts_is_found_by_bytes(tmp_path):
    train, test = videos("train", 2, 2, root=tmp_path), videos("test", 2, 2, root=tmp_path)
    for number, record in enumerate([*train.records, *test.records]):
        record.video.parent.mkdir(exist_ok=True)
        record.video.write_bytes(bytes([number]) * 8)
    assert overlap_warnings(train, [test]) == []
    test.records[2].video.write_bytes(train.records[0].video.read_bytes())
    (text,) = overlap_warnings(train, [test])
    assert "train and test share content: 1 files are in both" in text
    assert "a0.mp4" in text
    assert "b0.mp4" in text
    assert "4 files are in both" in overlap_warnings(train, [train])[0]


def test_pieces_of_a_recording_in_both_parts_are_found_by_name():
    names = ("match_part1", "derby_part1"), ("match_part2", "final_part1")
    train, test = (
        VideoSet(
            name="own",
            split=split,
            classes=("a",),
            words=("a",),
            records=tuple(Record(video=Path(split, f"{name}.mp4"), label=0) for name in own),
        )
        for split, own in zip(("train", "test"), names, strict=True)
    )
    (text,) = overlap_warnings(train, [test])
    assert "pieces of 1 recordings are in both, such as 'match'" in text


def test_classes_of_one_recording_are_named():
    records = [Record(video=Path(f"m_part{n}.mp4"), label=0) for n in range(4)]
    records += [Record(video=Path(f"{name}.mp4"), label=1) for name in "xyz"]
    whole = VideoSet(name="own", split="all", classes=("a", "b"), words=("a", "b"), records=tuple(records))
    (text,) = split_warnings([whole])
    assert "all videos of 'a' are pieces of one recording" in text
