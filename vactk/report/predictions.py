"""predictions.csv: what a model answered for every video of an evaluation, and how sure it was."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vactk.errors import VactkError
from vactk.files.atomic import atomic_path
from vactk.files.text import read_rows, wrong_line

FILE = "predictions.csv"
TOP = 5  # labels listed for a video
COLUMNS = (
    *("split", "by", "num_classes", "video", "start_s", "end_s", "label", "answer", "rank", "label_probability"),
    *(f"{name}_{k}" for k in range(1, TOP + 1) for name in ("label", "probability", "similarity")),
    *("frames_s", "error"),
)  # fmt: skip
VideoKey = tuple[str, str, float | None, float | None]  # a video of a split: what is compared between runs


class Guess(NamedTuple):
    """One of the most probable labels of a video."""

    label: str
    probability: float
    similarity: float  # cosine of the video's and the label's embeddings


@dataclass(frozen=True, kw_only=True)
class PredictedVideo:
    """A row: one video of one split, answered by one classifier; an unreadable one has an `error` instead."""

    split: str
    by: str  # the classifier: similarity, class_head or ensemble
    num_classes: int  # that it chose among
    video: str
    start_s: float | None = None  # of a segment
    end_s: float | None = None
    label: str
    rank: int | None = None  # of the label, from 1; labels as probable as it come before it
    label_probability: float | None = None
    top: tuple[Guess, ...] = ()  # the most probable labels, the best first
    frames_s: tuple[float, ...] = ()  # times of the frames read, one view after another
    error: str = ""

    @property
    def answer(self) -> str:
        """The most probable label; empty where the video could not be read."""
        return self.top[0].label if self.top else ""

    @property
    def key(self) -> VideoKey:
        return self.split, self.video, self.start_s, self.end_s

    def within(self, k: int) -> bool:
        """Return whether the label is among the k most probable; an unreadable video counts as wrong."""
        return self.rank is not None and self.rank <= k


def write_predictions(folder: Path, rows: Iterable[PredictedVideo]) -> Path:
    """Write predictions.csv into `folder` atomically, as UTF-8, and return its path."""
    path = folder / FILE
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(map(_cells, rows))
    return path


def read_predictions(folder: Path) -> list[PredictedVideo]:
    """Read predictions.csv of a folder. Raises VactkError where there is none, and names a damaged row."""
    path = folder / FILE
    if not path.is_file():
        raise VactkError(
            f"there is no {FILE} in '{folder}': give the folder of a finished `vactk train` or `vactk finetune` on "
            "classes, or of `vactk zeroshot --output`"
        )
    lines = read_rows(path, ",")
    _, header = next(lines, (1, []))
    lacking = [name for name in COLUMNS if name not in header]
    if lacking:
        raise wrong_line(path, 1, f"lacks the column '{lacking[0]}': it is no file of predictions")
    rows = list(_read(path, header, lines))
    if not rows:
        raise VactkError(f"'{path}' has no rows")
    return rows


def by_set(rows: Sequence[PredictedVideo]) -> dict[tuple[str, str], list[PredictedVideo]]:
    """Return the rows of each (split, by), in the order of their first rows."""
    found: dict[tuple[str, str], list[PredictedVideo]] = {}
    for row in rows:
        found.setdefault((row.split, row.by), []).append(row)
    return found


def first_answers(rows: Sequence[PredictedVideo]) -> dict[str, list[PredictedVideo]]:
    """Return the rows of each split by the classifier that its first row names: the one that was asked for."""
    found: dict[str, list[PredictedVideo]] = {}
    for (split, _), own in by_set(rows).items():
        found.setdefault(split, own)
    return found


def _cells(row: PredictedVideo) -> list[object]:
    guesses: list[object] = []
    for k in range(TOP):
        guess = row.top[k] if k < len(row.top) else None
        guesses += ["", "", ""] if guess is None else [guess.label, *map(_number, guess[1:])]
    return [
        *(row.split, row.by, row.num_classes, row.video, _number(row.start_s), _number(row.end_s)),
        *(row.label, row.answer, "" if row.rank is None else row.rank, _number(row.label_probability)),
        *guesses,
        *(" ".join(f"{time_s:.3f}" for time_s in row.frames_s), row.error),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}"


def _read(path: Path, header: list[str], lines: Iterator[tuple[int, list[str]]]) -> Iterator[PredictedVideo]:
    for number, cells in lines:
        if len(cells) != len(header):
            raise wrong_line(
                path, number, f"has {len(cells)} cells, but the header has {len(header)} columns"
            )
        try:
            yield _row(dict(zip(header, cells, strict=True)))
        except ValueError as error:
            raise wrong_line(path, number, f"is damaged: {error}") from error


def _row(cells: Mapping[str, str]) -> PredictedVideo:
    """Return a row. Raises ValueError that says which cell is wrong."""
    top = tuple(
        Guess(cells[f"label_{k}"], _share(cells, f"probability_{k}"), _float(cells, f"similarity_{k}"))
        for k in range(1, TOP + 1)
        if cells[f"label_{k}"]
    )
    row = PredictedVideo(
        split=cells["split"],
        by=cells["by"],
        num_classes=_count(cells, "num_classes"),
        video=cells["video"],
        start_s=_float(cells, "start_s") if cells["start_s"] else None,
        end_s=_float(cells, "end_s") if cells["end_s"] else None,
        label=cells["label"],
        rank=_count(cells, "rank") if top else None,
        label_probability=_share(cells, "label_probability") if top else None,
        top=top,
        frames_s=tuple(float(time_s) for time_s in cells["frames_s"].split()),
        error=cells["error"],
    )
    if row.answer != cells["answer"]:
        raise ValueError(f"answer is '{cells['answer']}', but label_1 is '{row.answer}'")
    if not row.label or not (top or row.error):
        raise ValueError("it needs a label, and an answer or an error")
    return row


def _count(cells: Mapping[str, str], name: str) -> int:
    if not cells[name].isascii() or not cells[name].isdigit() or int(cells[name]) < 1:
        raise ValueError(f"{name} is '{cells[name]}', not a whole number of at least 1")
    return int(cells[name])


def _float(cells: Mapping[str, str], name: str) -> float:
    try:
        value = float(cells[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} is '{cells[name]}', not a number")
    return value


def _share(cells: Mapping[str, str], name: str) -> float:
    value = _float(cells, name)
    if not 0 <= value <= 1 + 1e-6:
        raise ValueError(f"{name} is {cells[name]}, not from 0 to 1")
    return value
