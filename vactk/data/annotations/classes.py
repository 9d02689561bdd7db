"""Class names: matching their spellings, the tables that ship with vactk, their words for CLIP."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from vactk.data.annotations.entries import is_number
from vactk.errors import VactkError, unknown
from vactk.files.text import read_json, read_lines, read_rows, wrong_line
from vactk.text.templates import as_words

FOLDER = Path(__file__).parents[1] / "class_names"


def match_key(label: str) -> str:
    """Return the letters and digits of a label, case-folded: equal for all spellings of a class."""
    return re.sub(r"[\W_]+", "", label.casefold())


@lru_cache
def known_classes(dataset: str) -> dict[str, str]:
    """Return {label: words} of a dataset whose names ship with vactk, in the order of their numbers."""
    rows = (line.partition("	") for _, line in read_lines(FOLDER / f"{dataset}.tsv"))
    return {label: words for label, _, words in rows}


def words_of(classes: Sequence[str], table: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return each class as words for CLIP: from `table`, in any spelling, else by `as_words`."""
    by_key = {match_key(label): words for label, words in (table or {}).items()}
    return tuple(by_key.get(match_key(label), as_words(label)) for label in classes)


def check_distinct(classes: Sequence[str], where: str | Path) -> None:
    """Raise VactkError where two classes have the same name, or one has none."""
    seen: dict[str, str] = {}
    for label in classes:
        key = match_key(label)
        if not key:
            raise VactkError(f"'{where}' has a class without a name: '{label}'")
        if key in seen:
            raise VactkError(
                f"'{where}' has two classes of the same name: '{seen[key]}' and '{label}'; "
                "only letters and digits count, in any case: rename one, or merge them"
            )
        seen[key] = label


class ClassIndex:
    """Finds the number of a class by its name, in any spelling, or by the number as text.

    `table`: words of classes, see `words_of`. Raises VactkError as `check_distinct` does.
    """

    def __init__(
        self, classes: Sequence[str], where: str | Path, table: Mapping[str, str] | None = None
    ) -> None:
        check_distinct(classes, where)
        self.classes = tuple(classes)
        self.words = words_of(classes, table)
        self._numbers = {match_key(label): number for number, label in enumerate(classes)}

    def find(self, label: str) -> int | None:
        """Return the class's number, or None where there is no such class."""
        number = self._numbers.get(match_key(label))
        if number is None and is_number(label) and int(label) < len(self.classes):
            return int(label)
        return number

    def describe_unknown(self, labels: Iterable[str]) -> list[str]:
        """Return a message per label that is not a class, with the nearest that is."""
        return [unknown(label, self.classes, "class") for label in sorted(set(labels))]


def read_classes(path: Path) -> tuple[str, ...]:
    """Read a class table in any of the usual forms, in the order of the numbers.

    A name per line; `number name` (UCF101's classInd.txt); `id,name` with a header; JSON from names to numbers
    or from numbers to names. Raises VactkError where the numbers leave gaps.
    """
    if path.suffix.lower() == ".json":
        return _from_json(path)
    first = next(read_lines(path), None)
    if first is None:
        raise VactkError(f"'{path}' is empty")
    if re.fullmatch(r"(id|index|label)[,;\t](name|class|label)", first[1].lower()):
        rows = list(read_rows(path, re.sub(r"\w", "", first[1])[0]))[1:]
        if any(len(cells) != 2 for _, cells in rows):
            number = next(number for number, cells in rows if len(cells) != 2)
            raise wrong_line(path, number, "must be a number and a name; quote names that hold the delimiter")
        return _in_order(path, {cells[1]: cells[0] for _, cells in rows})
    lines = [line for _, line in read_lines(path)]
    numbered = [line.partition(" ") for line in lines]
    if all(number.isdigit() and name for number, _, name in numbered):
        return _in_order(path, {name.strip(): number for number, _, name in numbered})
    return tuple(lines)


def _from_json(path: Path) -> tuple[str, ...]:
    table = read_json(path)
    if isinstance(table, list) and all(isinstance(name, str) for name in table):
        return tuple(table)
    if not isinstance(table, dict):
        raise VactkError(f"'{path}' is not a class table: it must map names to numbers, or numbers to names")
    by_number = all(is_number(str(key)) for key in table)
    return _in_order(path, {str(value): str(key) for key, value in table.items()} if by_number else table)


def _in_order(path: Path, numbers: Mapping[str, object]) -> tuple[str, ...]:
    """Return names sorted by their numbers, which count from 0 or 1 without gaps."""
    try:
        counted = {name: int(str(number)) for name, number in numbers.items()}
    except ValueError:
        raise VactkError(f"'{path}' is not a class table: class numbers must be whole numbers") from None
    first = min(counted.values(), default=0)
    if first not in (0, 1) or sorted(counted.values()) != list(range(first, first + len(counted))):
        raise VactkError(
            f"'{path}': the numbers of the classes must count from 0 or 1 without gaps or repeats"
        )
    return tuple(sorted(counted, key=lambda name: counted[name]))
