"""The exception that users see, and the lookup that names the nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class VactkError(Exception):
    """A user's file, name or setting is wrong: the message says which, its value, and the way out."""


class RestartError(VactkError):
    """Raised when rerunning the command with `arguments` appended would continue the run."""

    def __init__(self, message: str, arguments: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.arguments = arguments


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type's name where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def nearest(name: str, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The choice most like `name`, ignoring case, or None when nothing is closer than `cutoff`, from 0 to 1."""
    by_lower = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[matches[0]] if matches else None


def unknown(name: str, choices: Iterable[str], kind: str) -> str:
    """The message for an unknown `kind` called `name`: the nearest choice, else the first choices."""
    choices = sorted(choices)
    match = nearest(name, choices)
    if match is not None:
        return f"unknown {kind} '{name}'; did you mean '{match}'?"
    if not choices:
        return f"unknown {kind} '{name}'; there is none"
    shown = ", ".join(choices[:12]) + (", ..." if len(choices) > 12 else "")
    return f"unknown {kind} '{name}'; choose from {shown}"


def pick(table: Mapping[str, T], name: str, kind: str) -> T:
    """`table[name]`. Raises VactkError with the nearest match when `name` is not there."""
    if name not in table:
        raise VactkError(unknown(name, table, kind))
    return table[name]
