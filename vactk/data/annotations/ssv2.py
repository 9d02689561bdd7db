"""Something-Something v2's official files: a label table, lists of videos, and the test labels."""

from __future__ import annotations

from pathlib import Path

from vactk.data.annotations.entries import AnnotationEntry, Annotations, labels_of
from vactk.errors import VactkError
from vactk.files.text import read_json, read_rows, wrong_line


def read_ssv2_labels(path: Path) -> Annotations:
    """Read {template without brackets: number as text} as classes in the order of their numbers."""
    table = read_json(path)
    try:
        numbers = {label: int(number) for label, number in table.items()}
    except (AttributeError, ArithmeticError, TypeError, ValueError):
        raise VactkError(f"'{path}' must map every class to a number") from None
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise VactkError(f"'{path}': class numbers must be 0 to {len(numbers) - 1}, each once")
    return Annotations(classes=tuple(sorted(numbers, key=lambda label: numbers[label])))


def read_ssv2_list(path: Path) -> Annotations:
    """Read a list of videos. A video's class is its template without brackets; test videos have none."""
    items = read_json(path)
    if not isinstance(items, list):
        raise VactkError(f"'{path}' must hold a list of videos")
    entries = []
    for item in items:
        if not isinstance(item, dict) or "id" not in item:
            raise VactkError(f"'{path}': every video needs an id, got {str(item)[:60]}")
        template, caption = item.get("template"), item.get("label")
        if not all(text is None or isinstance(text, str) for text in (template, caption)):
            raise VactkError(f"'{path}': template and label of video '{item['id']}' must be text")
        entries.append(
            AnnotationEntry(
                video=str(item["id"]),
                label=None if template is None else template.replace("[", "").replace("]", ""),
                captions=() if caption is None else (caption,),
            )
        )
    return Annotations(classes=labels_of(entries), splits={path.stem: tuple(entries)})


def read_ssv2_answers(path: Path) -> Annotations:
    """Read the classes of the test videos: rows of `id;template without brackets`."""
    entries = []
    for number, cells in read_rows(path, ";"):
        if len(cells) != 2:
            raise wrong_line(path, number, "must be an id and a class separated by ';'")
        entries.append(AnnotationEntry(video=cells[0], label=cells[1]))
    return Annotations(classes=labels_of(entries), splits={path.stem: tuple(entries)})
