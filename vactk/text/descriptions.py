"""Which descriptions are of which videos, and long texts cut to what a text tower can read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vactk.errors import VactkError

LONGEST_WORD = 1000  # letters that are given to a tokenizer, whose time grows with their square
_ENDS = re.compile(r"(?<=[.!?;])\s+")  # where a sentence ends


@dataclass(frozen=True)
class Matched:
    """Descriptions of a list of videos, and what did not match."""

    texts: tuple[tuple[str, ...], ...]  # of each video; empty where there are none
    missing: tuple[Path, ...]  # videos without descriptions
    extra: tuple[str, ...]  # videos of the file that are not in the list


def match_descriptions(descriptions: dict[str, tuple[str, ...]], videos: Sequence[Path]) -> Matched:
    """Descriptions of `videos`, found by whole path or by the end of it, also without the suffix.

    The longest end that is described counts. Raises VactkError when none matches, an entry could mean several
    videos, or all say the same.
    """
    names: dict[str, list[str]] = {}  # by the path alone, the different spellings of the file
    for name in descriptions:
        names.setdefault(_plain(name), []).append(name)
    places: dict[str, list[int]] = {}  # of the videos that an entry describes
    for place, video in enumerate(videos):
        parts = _plain(video.as_posix()).split("/")
        whole = ("/".join(parts[start:]) for start in range(len(parts)))
        ends = (end for path in whole for end in (path, path.rpartition(".")[0]))
        found = next((end for end in ends if end in names), None)
        if found is not None:
            places.setdefault(found, []).append(place)
    texts: list[tuple[str, ...]] = [()] * len(videos)
    for end, found_at in places.items():
        own = tuple(text for name in names[end] for text in descriptions[name])
        for place in _one_video(names[end][0], found_at, videos):
            texts[place] = own
    extra = tuple(name for end, spelled in names.items() if end not in places for name in spelled)
    missing = tuple(video for video, own in zip(videos, texts, strict=True) if not own)
    if len(missing) == len(videos):
        raise VactkError(
            f"none of the {len(descriptions)} described videos is one of the {len(videos)} to train on"
        )
    _refuse_all_the_same(texts)
    return Matched(tuple(texts), missing, extra)


def _refuse_all_the_same(texts: Sequence[tuple[str, ...]]) -> None:
    """Several videos that all have one and the same text cannot be told apart by it."""
    described = [own for own in texts if own]
    different = {text for own in described for text in own}
    if len(described) > 1 and len(different) == 1:
        raise VactkError(
            f"all {len(described)} described videos have the same description, '{different.pop():.60}': "
            "it tells none of them apart"
        )


def shorten(text: str, count_tokens: Callable[[str], int], limit: int) -> str:
    """`text` itself when it has at most `limit` tokens, else its first sentences, or the words, that do.

    Of an enormous text only a start is looked at, as a word is at least one token.
    """
    words = text.split(maxsplit=limit)
    if (
        len(words) <= limit
        and max(map(len, words), default=0) <= LONGEST_WORD
        and count_tokens(text) <= limit
    ):
        return text
    text = " ".join(word[:LONGEST_WORD] for word in text.split()[: limit + 1])
    for parts in (_ENDS.split(text), text.split()):
        kept = 0
        while kept < len(parts) and count_tokens(" ".join(parts[: kept + 1])) <= limit:
            kept += 1
        if kept:
            return " ".join(parts[:kept])
    return text


def _plain(path: str) -> str:
    """A path with slashes alone, and without a start that says nothing of the file."""
    return PurePosixPath(path.replace("\\", "/")).as_posix().lstrip("/")


def _one_video(name: str, places: list[int], videos: Sequence[Path]) -> list[int]:
    """`places` when they are of one video, else those of the video whose whole path `name` is."""
    if len({videos[place] for place in places}) == 1:
        return places
    whole = [place for place in places if _plain(videos[place].as_posix()) == _plain(name)]
    if not whole:
        example = sorted({str(videos[place]) for place in places})
        raise VactkError(
            f"description of '{name}' could mean '{example[0]}' or '{example[1]}': give more of the path"
        )
    return whole
