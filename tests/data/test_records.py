from __future__ import annotations

from pathlib import Path

import pytest

from vactk.data.records import Record, VideoSet
from vactk.errors import VactkError


def video_set(classes, words, labels):
    records = tuple(Record(video=Path("a.mp4"), label=label) for label in labels)
    return VideoSet(name="mine", split="train", classes=classes, words=words, records=records)


def test_records_without_labels_need_no_classes():
    assert video_set((), (), (None, None)).classes == ()


@pytest.mark.parametrize(
    ("classes", "words", "labels", "message"),
    [
        (
            ("Run_Fast", "run fast"),
            ("run fast", "run fast"),
            (0,),
            "classes 'Run_Fast' and 'run fast' of mine",
        ),
        (("__", "run"), ("", "run"), (0,), "class '__' of mine has no words"),
        (("run", "jump"), ("run", "jump"), (0, 2), "has label 2, but mine has 2 classes"),
        (("run", "jump"), ("run", "jump"), (-1,), "has label -1"),
        (("run", "jump"), ("run",), (0,), "2 classes and words for 1"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_refused(classes, words, labels, message):
    with pytest.raises(VactkError, match=message):
        video_set(classes, words, labels)
