"""Reading text files as lines, rows and JSON, with errors that name file and line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vactk.config import parse_json
from vactk.errors import VactkError

DELIMITERS = (",", "\t", ";", "|")


def read_text(path: Path) -> str:
    """Return a file's text. Raises VactkError when it cannot be read, or is neither UTF-8 nor UTF-16 with a BOM."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VactkError(f"cannot read '{path}': {error.strerror}") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # byte order marks, as Windows programs write them
        return _decode(path, content, "utf-16")
    return _decode(path, content, "utf-8-sig")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, stripped line) for each line that is not empty."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def read_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its last line, stripped cells) for each row that is not empty. Raises VactkError."""
    reader = csv.reader(io.StringIO(read_text(path)), delimiter=delimiter)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise VactkError(f"'{path}' line {reader.line_num}: {error}") from error


def read_json(path: Path) -> Any:
    """Return the value in a JSON file. Raises VactkError where it is not JSON."""
    try:
        return parse_json(read_text(path))
    except json.JSONDecodeError as error:
        raise VactkError(f"'{path}' is not JSON: {error.msg} in line {error.lineno}") from error
    except ValueError as error:
        raise VactkError(f"'{path}' cannot be read as JSON: {error}") from error


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for each line. Raises VactkError where a line is not a JSON object."""
    for number, line in read_lines(path):
        try:
            value = parse_json(line)
        except ValueError as error:
            raise wrong_line(path, number, f"is not JSON ({getattr(error, 'msg', error)})") from error
        if not isinstance(value, dict):
            raise wrong_line(path, number, f'must be an object, such as {{"video": ...}}, got {line[:40]}')
        yield number, value


def wrong_line(path: Path, number: int, what: str) -> VactkError:
    """Return an error about one line of a file; `what` follows "line N"."""
    return VactkError(f"'{path}' line {number} {what}")


def _decode(path: Path, content: bytes, encoding: str) -> str:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = content[error.start]
        raise VactkError(
            f"'{path}' is not UTF-8 text: byte 0x{byte:02x} in line {line}; save it as UTF-8"
        ) from error
    if "\0" in text[:4096]:
        raise VactkError(f"'{path}' is not a text file")
    return text
