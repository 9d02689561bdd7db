"""Descriptions of videos from a JSON-lines file, and long texts cut to what a text tower can read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vactk.config import parse_json
from vactk.errors import VactkError

_ENDS = re.compile(r"(?<=[.!?;])\s+")  # where a sentence ends


@dataclass(frozen=True)
class Matched:
    """Descriptions of a list of videos, and what did not match."""

    texts: tuple[tuple[str, ...], ...]  # of each video; empty where there are none
    missing: tuple[Path, ...]  # videos without descriptions
    extra: tuple[str, ...]  # videos of the file that are not in the list


def read_descriptions(path: Path) -> dict[str, tuple[str, ...]]:
    """Lines {"video": PATH, "descriptions": [TEXT, ...]}; several lines of one video add up.

    Raises VactkError with the number of the first line that is not of this form.
    """
    try:
        # not splitlines: JSON may hold other ends of lines, such as U+2028, as they are
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise VactkError(f"cannot read descriptions from '{path}': {error}") from error
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
            video, texts = entry["video"], entry["descriptions"]
        except (ValueError, KeyError, TypeError) as error:
            raise VactkError(
                f'line {number} of \'{path}\' is not {{"video": PATH, "descriptions": [TEXT, ...]}}: {error}'
            ) from error
        if not isinstance(video, str) or not isinstance(texts, list) or not all(map(_is_text, texts)):
            raise VactkError(
                f"line {number} of '{path}': descriptions must be a list of texts that say something"
            )
        found.setdefault(video, []).extend(" ".join(text.split()) for text in texts)
    if not any(found.values()):
        raise VactkError(f"'{path}' holds no descriptions")
    return {video: tuple(texts) for video, texts in found.items()}


def match_descriptions(descriptions: dict[str, tuple[str, ...]], videos: Sequence[Path]) -> Matched:
    """Descriptions of `videos`, found by whole path or by the end of it; the longest end that is described counts.

    Raises VactkError when none matches, or an entry could mean several videos.
    """
    names: dict[str, list[str]] = {}  # by the path alone, the different spellings of the file
    for name in descriptions:
        names.setdefault(_plain(name), []).append(name)
    places: dict[str, list[int]] = {}  # of the videos that an entry describes
    for place, video in enumerate(videos):
        parts = _plain(video.as_posix()).split("/")
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
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
    return Matched(tuple(texts), missing, extra)


def shorten(text: str, count_tokens: Callable[[str], int], limit: int) -> str:
    """`text` itself when it has at most `limit` tokens, else its first sentences, or the words, that do."""
    if count_tokens(text) <= limit:
        return text
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


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
