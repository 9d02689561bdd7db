"""Descriptions of videos from a file: JSON lines, a table, or a dictionary saved by torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vactk.config import parse_json
from vactk.data.annotations.lists import read_list
from vactk.errors import VactkError
from vactk.weights.torch_file import read_plain_data

Descriptions = dict[str, tuple[str, ...]]
MAX_LENGTH = 100_000  # characters of a description; a longer text is some other file's content


def read_descriptions(path: Path) -> Descriptions:
    """Return {video as written: its texts}; the texts of several lines of one video are joined in one tuple.

    Raises VactkError, which says what was found instead and where.
    """
    if not path.is_file():
        raise VactkError(f"cannot read descriptions from '{path}': there is no such file")
    found = READERS.get(path.suffix.lower(), _from_json_lines)(path)
    if not any(found.values()):
        raise VactkError(f"'{path}' holds no descriptions")
    for video, texts in found.items():
        longest = max(map(len, texts), default=0)
        if longest > MAX_LENGTH:
            raise VactkError(
                f"'{path}' describes '{video}' with {longest:,} characters; at most {MAX_LENGTH:,} are allowed"
            )
    return {video: tuple(" ".join(text.split()) for text in texts) for video, texts in found.items()}


def _from_json_lines(path: Path) -> Descriptions:
    """Read lines {"video": PATH, "descriptions": [TEXT, ...]}."""
    try:
        # not splitlines: JSON strings may contain other line separators, such as U+2028
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
                f"line {number} of '{path}': descriptions must be a list of texts that are not blank"
            )
        found.setdefault(video, []).extend(texts)
    return {video: tuple(texts) for video, texts in found.items()}


def _from_table(path: Path) -> Descriptions:
    """Read a row per text: a column of videos and one of captions, named in the first line."""
    found: dict[str, tuple[str, ...]] = {}
    for entry in read_list(path).entries:
        found[entry.video] = (*found.get(entry.video, ()), *entry.captions)
    if not any(found.values()):
        raise VactkError(
            f"'{path}' holds no descriptions: its first line must name a column of videos and one of texts, "
            "such as video,description"
        )
    return found


def _from_torch(path: Path) -> Descriptions:
    """Read a dictionary of each video's text or list of texts, as data; nothing in the file is run."""
    wanted = "expected a dictionary from video names to a text or a list of texts"
    try:
        content = read_plain_data(path)
    except VactkError as error:
        code = re.search(r"GLOBAL (\S+)", str(error.__cause__))
        found = f"it refers to '{code[1]}', which could be code" if code else str(error)
        raise VactkError(f"cannot read descriptions from '{path}': {found}; {wanted}") from error
    if not isinstance(content, Mapping):
        raise VactkError(f"'{path}' holds {_kind(content)}; {wanted}")
    for video, texts in content.items():
        if not isinstance(video, str) or not (_is_text(texts) or _are_texts(texts)):
            keys = f"a dictionary of {len(content):,} entries, and under {video!r:.80} {_kind(texts)}"
            raise VactkError(f"'{path}' holds {keys}; {wanted}")
    return {video: (texts,) if isinstance(texts, str) else tuple(texts) for video, texts in content.items()}


def _kind(value: Any) -> str:
    """Describe a value in a few words."""
    if isinstance(value, Mapping):
        return f"a dictionary with keys such as {next(iter(value), 'none')!r:.40}"
    if isinstance(value, str):
        return "an empty text" if not value.strip() else "a text"
    if isinstance(value, (list, tuple)):
        odd = next((item for item in value if not _is_text(item)), None)
        return f"a list with {_kind(odd)}" if value and odd is not None else f"a list of {len(value):,}"
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + ("" if shape is None else f" of shape {tuple(shape)}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_text, value))


READERS: dict[str, Callable[[Path], Descriptions]] = {
    **dict.fromkeys((".csv", ".tsv"), _from_table),
    **dict.fromkeys((".pt", ".pth"), _from_torch),
}
