from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from vactk.data.class_subsets import sample_shots
from vactk.data.records import Record, VideoSet
from vactk.errors import VactkError

CLASSES = ("run", "jump", "wave")


def videos(*sizes):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    records = tuple(Record(video=Path(f"{i}.mp4"), label=label) for i, label in enumerate(labels))
    return VideoSet(name="d", split="train", classes=CLASSES, words=CLASSES, records=records)


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_every_class_gets_as_many_videos(shots):
    drawn = sample_shots(videos(9, 5, 30), shots, seed=3)
    assert Counter(record.label for record in drawn.records) == {0: shots, 1: shots, 2: shots}
    assert len(set(drawn.records)) == 3 * shots
    assert drawn.classes == CLASSES


def test_a_seed_draws_the_same_videos_and_fewer_shots_are_a_part_of_more():
    everything = videos(20, 20, 20)
    eight = sample_shots(everything, 8, seed=1)
    assert sample_shots(everything, 8, seed=1) == eight
    assert sample_shots(everything, 8, seed=2) != eight
    assert set(sample_shots(everything, 2, seed=1).records) < set(eight.records)


def test_a_class_with_too_few_videos_is_named():
    with pytest.raises(
        VactkError, match="1 classes of d/train have fewer, such as 'jump'; ask for at most 3"
    ):
        sample_shots(videos(9, 3, 9), 4, seed=0)
