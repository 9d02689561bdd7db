"""Matching descriptions with videos, and shortening texts to a text tower's context."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vactk.errors import VactkError

MAX_WORD_LENGTH = 1000  # characters; a tokenizer's time grows with their square
_ENDS = re.compile(r"(?<=[.!?;])\s+")  # where a sentence ends


@dataclass(frozen=True)
class MatchedDescriptions:
    """Descriptions of a list of videos, and what did not match."""

    texts: tuple[tuple[str, ...], ...]  # per video; empty where it has none
    missing: tuple[Path, ...]  # videos without descriptions
    extra: tuple[str, ...]  # described videos that are not in the list


def match_descriptions(
    descriptions: dict[str, tuple[str, ...]], videos: Sequence[Path]
) -> MatchedDescriptions:
    """Return the descriptions of `videos`, matched by the longest common end of their paths, suffix or not.

    Raises VactkError when none matches, an entry fits several videos, or all descriptions are the same.
    """
    names: dict[str, list[str]] = {}  # spellings in the file, by normalised path
    for name in descriptions:
        names.setdefault(_normalise(name), []).append(name)
    matches: dict[str, list[int]] = {}  # indices of videos, by the normalised path of their entry
    for index, video in enumerate(videos):
        folders = _normalise(video.as_posix()).split("/")
        tails = ("/".join(folders[start:]) for start in range(len(folders)))
        ends = (end for tail in tails for end in (tail, tail.rpartition(".")[0]))
        found = next((end for end in ends if end in names), None)
        if found is not None:
            matches.setdefault(found, []).append(index)
    texts: list[tuple[str, ...]] = [()] * len(videos)
    for end, matched in matches.items():
        own = tuple(text for name in names[end] for text in descriptions[name])
        for index in _one_video(names[end][0], matched, videos):
            texts[index] = own
    extra = tuple(name for end, spelled in names.items() if end not in matches for name in spelled)
    missing = tuple(video for video, own in zip(videos, texts, strict=True) if not own)
    if len(missing) == len(videos):
        raise VactkError(
            f"none of the {len(descriptions)} described videos is among the {len(videos)} videos to train on"
        )
    refuse_all_the_same(texts, "description")
    return MatchedDescriptions(tuple(texts), missing, extra)


def refuse_all_the_same(texts: Sequence[tuple[str, ...]], kind: str) -> None:
    """Raise VactkError if several videos all have the same single text, of a `kind` such as "caption"."""
    described = [own for own in texts if own]
    different = {text for own in described for text in own}
    if len(described) > 1 and len(different) == 1:
        raise VactkError(
            f"all {len(described)} videos with a {kind} have the same one, '{different.pop():.60}': "
            "it distinguishes none of them"
        )


def shorten(text: str, count_tokens: Callable[[str], int], limit: int) -> str:
    """Return `text` if it has at most `limit` tokens, else its first sentences, or words, that fit.

    Only the first `limit` + 1 words of a long text are tokenized, as a word has at least one token.
    """
    words = text.split(maxsplit=limit)
    if (
        len(words) <= limit
        and max(map(len, words), default=0) <= MAX_WORD_LENGTH
        and count_tokens(text) <= limit
    ):
        return text
    text = " ".join(word[:MAX_WORD_LENGTH] for word in text.split()[: limit + 1])
    for units in (_ENDS.split(text), text.split()):
        kept = 0
        while kept < len(units) and count_tokens(" ".join(units[: kept + 1])) <= limit:
            kept += 1
        if kept:
            return " ".join(units[:kept])
    return text


def _normalise(path: str) -> str:
    """Return a path with forward slashes and without a leading slash."""
    return PurePosixPath(path.replace("\\", "/")).as_posix().lstrip("/")


def _one_video(name: str, indices: list[int], videos: Sequence[Path]) -> list[int]:
    """Return `indices` if they are of one video, else those of the video whose whole path is `name`."""
    if len({videos[index] for index in indices}) == 1:
        return indices
    whole = [index for index in indices if _normalise(videos[index].as_posix()) == _normalise(name)]
    if not whole:
        example = sorted({str(videos[index]) for index in indices})
        raise VactkError(
            f"description of '{name}' is ambiguous: '{example[0]}' or '{example[1]}'; give more of the path"
        )
    return whole
