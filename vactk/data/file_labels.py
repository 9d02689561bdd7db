"""What files' names say of their classes, against what a list says: published lists have swapped classes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vactk.data.classes import match_key
from vactk.data.records import Record, VideoSet

# HMDB51: film_CLASS_body_camera_people_view_quality_number; UCF101: v_CLASS_group_clip
HMDB51_NAME = re.compile(r"(?P<start>.+)_[fhlu]_[cn]m_np\d+_(fr|ba|le|ri)_(goo|med|bad)_\d+", re.IGNORECASE)
UCF101_NAME = re.compile(r"v_(?P<label>.+)_g\d+_c\d+", re.IGNORECASE)


class Contradiction(NamedTuple):
    """A video whose name tells of another class than its list."""

    video: Path
    listed: str
    named: str


def contradictions(videos: VideoSet) -> list[Contradiction]:
    """The labelled videos whose file name or folder is that of another class. Names that tell nothing pass."""
    return list(_contradictions(videos))


def _contradictions(videos: VideoSet) -> Iterator[Contradiction]:
    by_key = {match_key(label): label for label in videos.classes}
    for record in videos.records:
        if record.label is None:
            continue
        listed = videos.classes[record.label]
        named = _named_class(record, by_key)
        if named is not None and named != listed:
            yield Contradiction(record.video, listed, named)


def _named_class(record: Record, by_key: dict[str, str]) -> str | None:
    name = record.name or record.video.stem
    ucf101 = UCF101_NAME.fullmatch(name)
    if ucf101:
        return by_key.get(match_key(ucf101["label"]))
    hmdb51 = HMDB51_NAME.fullmatch(name)
    if hmdb51:
        words = hmdb51["start"].split("_")
        ends = (
            "".join(words[-count:]) for count in range(len(words), 0, -1)
        )  # the longest first: kick_ball, ball
        return next((by_key[match_key(end)] for end in ends if match_key(end) in by_key), None)
    return by_key.get(match_key(record.video.parent.name))
