"""Which videos are pieces of one recording, by their names, and held-out parts that keep recordings whole."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from vactk.data.annotations.entries import bare_name

RECORDING = "recording "  # before the name of a recording; a video that is one of its own goes by its path
L = TypeVar("L", bound=Hashable)  # a label
PIECE = r"(?:part|pt|clip|seg|segment|piece|chunk|scene)"
UCF101_NAME = re.compile(r"(?P<recording>v_(?P<label>.+)_g\d+)_c\d+", re.IGNORECASE)
# film_CLASS_body_camera_people_view_quality_number
HMDB51_NAME = re.compile(
    r"(?P<recording>.+)_[fhlu]_[cn]m_np\d+_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+", re.IGNORECASE
)
NAMED_PIECES = (
    UCF101_NAME,
    HMDB51_NAME,
    re.compile(r"(?P<recording>[\w-]{11})_\d{6}_\d{6}"),  # Kinetics: ID_START_END
    re.compile(rf"(?P<recording>.+?)[ _.-]+\(?{PIECE}[ _.-]*\d+\)?", re.IGNORECASE),  # name_part3
    re.compile(rf"{PIECE}[ _.-]*\d+[ _.-]+(?:of|from)[ _.-]+(?P<recording>.+)", re.IGNORECASE),
)
COUNTED_PIECE = re.compile(r"(?P<recording>.+?)[ _.-]+\(?(?P<number>\d+)\)?")  # name-0001, name.000, name (1)


def recordings(paths: Sequence[str], labels: Sequence[Hashable]) -> list[str]:
    """Return the recording that each video belongs to: an identifier that pieces of one recording share.

    Pieces are named as in UCF101, HMDB51 and Kinetics, by a word (`name_part3`, `clip_3_of_name`), or by a number
    at the end that counts from 0 or 1 (`name-0001`). Where each class has one such name alone, as in `run_01` to
    `run_40`, the numbers only count its videos, which are then recordings of their own.
    """
    names = [bare_name(path) for path in paths]
    counted = [None if _named_piece(name) else COUNTED_PIECE.fullmatch(name) for name in names]
    first: dict[str, int] = {}  # the lowest number after each name
    for piece in filter(None, counted):
        name, number = piece["recording"].casefold(), int(piece["number"])
        first[name] = min(number, first.get(name, number))
    keys = []
    for path, name, found in zip(paths, names, counted, strict=True):
        key = _named_piece(name)
        if found is not None and first[found["recording"].casefold()] <= 1:
            key = found["recording"].casefold()
        keys.append(path if key is None else RECORDING + key)
    names_of: dict[Hashable, set[str]] = defaultdict(set)
    for key, label in zip(keys, labels, strict=True):
        names_of[label].add(key)
    several = set().union(*(found for found in names_of.values() if len(found) > 1))
    return [key if key in several else path for key, path in zip(keys, paths, strict=True)]


def single_recordings(paths: Sequence[str], labels: Sequence[Hashable]) -> list[Hashable]:
    """Return the labels with several videos, all of which are named as pieces of one recording, or are one file."""
    found: dict[Hashable, list[str | None]] = defaultdict(list)
    for path, label in zip(paths, labels, strict=True):
        found[label].append(_named_piece(bare_name(path)))
    files = {label: {p for p, own in zip(paths, labels, strict=True) if own == label} for label in found}
    return [
        label
        for label, names in found.items()
        if len(names) > 1 and (len(files[label]) == 1 or (None not in names and len(set(names)) == 1))
    ]


def choose_held_out(
    labels: Sequence[L],
    groups: Sequence[str],
    wanted: Mapping[L, int],
    order: Sequence[int],
) -> set[int]:
    """Return the positions to hold out: whole groups in `order`, about as many of each label as `wanted`.

    Groups that fit come first, then the smallest of those that are too large. No label loses more than half of its
    videos.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position in order:
        members[groups[position]].append(position)
    counts = {group: Counter(labels[p] for p in positions) for group, positions in members.items()}
    of_label: dict[L, list[str]] = defaultdict(list)
    for group, own in counts.items():
        for label in own:
            of_label[label].append(group)
    total, held, chosen = Counter(labels), Counter[L](), set[str]()

    def can_take(group: str) -> bool:
        fits = all(2 * (held[label] + count) <= total[label] for label, count in counts[group].items())
        return fits and group not in chosen

    def take(group: str) -> None:
        chosen.add(group)
        held.update(counts[group])

    for label in sorted(total, key=lambda label: (total[label], str(label))):
        for group in of_label[label]:
            if counts[group][label] <= wanted[label] - held[label] and can_take(group):
                take(group)
        left = [group for group in of_label[label] if held[label] < wanted[label] and can_take(group)]
        if left:
            take(min(left, key=lambda group: counts[group][label]))
    return {position for group in chosen for position in members[group]}


def _named_piece(name: str) -> str | None:
    """Return the recording that a name states its video to be a piece of; None where it states none."""
    found = next(filter(None, (pattern.fullmatch(name) for pattern in NAMED_PIECES)), None)
    return None if found is None else found["recording"].casefold()
