"""Labels as commands take them."""

from __future__ import annotations

from pathlib import Path

from vactk.errors import VactkError


def read_labels(text: str) -> tuple[str, ...]:
    """Labels from "a,b,c" or from the lines of a file."""
    parts = Path(text).read_text(encoding="utf-8").splitlines() if _is_file(text) else text.split(",")
    labels = [part.strip() for part in parts]
    if not any(labels):
        raise VactkError(
            "--labels is empty: name what the videos may show, such as --labels 'running,jumping'"
        )
    if not all(labels):
        raise VactkError(f"--labels holds an empty label: '{text}'")
    seen: set[str] = set()
    for label in labels:
        if label.lower() in seen:
            raise VactkError(f"--labels holds '{label}' twice")
        seen.add(label.lower())
    return tuple(labels)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a path: many labels
        return False
