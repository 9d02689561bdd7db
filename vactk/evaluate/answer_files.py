"""Write the answers for videos to files: CSV, JSON and, for answers over time, SubRip and pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vactk.errors import VactkError, pick
from vactk.evaluate.pictures import check_can_draw
from vactk.evaluate.timeline import Timelines
from vactk.evaluate.timeline_picture import MOST_VIDEOS, draw_timelines
from vactk.files.atomic import write_json, write_text

NONE = "none of these"

Result = Mapping[str, Any]  # under the keys that scripts rely on


def check_output(path: Path, num_videos: int, *, over_time: bool) -> None:
    """Raise VactkError for a format that does not exist, or cannot hold that many videos."""
    suffix, of_segments = path.suffix.lower(), [*SEGMENT_FORMATS, *PICTURES]
    if not over_time and suffix in of_segments and suffix not in PREDICTION_FORMATS:
        raise VactkError(f"--output '{path}' is for answers over time: add --window SECONDS")
    formats = dict.fromkeys(of_segments if over_time else PREDICTION_FORMATS)
    pick(formats, suffix, "format for --output, by its suffix,")
    if path.is_dir():
        raise VactkError(f"--output '{path}' is a folder: name a file")
    if suffix == ".srt" and num_videos > 1:
        raise VactkError(f"--output '{path}' holds the subtitles of one video, got {num_videos:,} videos")
    if suffix in PICTURES:
        check_can_draw(f"--output '{path}'")
        if num_videos > MOST_VIDEOS:
            raise VactkError(
                f"--output '{path}' shows the timelines of at most {MOST_VIDEOS} videos, got {num_videos:,}"
            )


def write_predictions(path: Path, result: Result) -> None:
    """Write the JSON result of whole videos, in the format of the suffix."""
    PREDICTION_FORMATS[path.suffix.lower()](path, result)


def write_timelines(path: Path, result: Result, found: Timelines) -> None:
    """Write timelines, whose JSON result is given too, in the format of the suffix."""
    if path.suffix.lower() in PICTURES:
        draw_timelines(path, found, result["model"])
    else:
        SEGMENT_FORMATS[path.suffix.lower()](path, result)


def _predictions_csv(path: Path, result: Result) -> None:
    count = max((len(one["labels"]) for one in result["predictions"]), default=1)
    keys = ("label", "probability", "similarity")
    names = [key if n == 1 else f"{key}_{n}" for n in range(1, count + 1) for key in keys]
    rows = [
        [one["video"], *(_number(label[key]) for label in one["labels"] for key in keys)]
        for one in result["predictions"]
    ]
    _write_csv(path, ["video", *names, "error"], rows, result)


def _segments_csv(path: Path, result: Result) -> None:
    rows = [
        [
            one["video"],
            f"{segment['start_s']:.3f}",
            f"{segment['end_s']:.3f}",
            segment["label"] or NONE,
            _number(segment["probability"]),
            _number(segment["similarity"]),
        ]
        for one in result["timelines"]
        for segment in one["segments"]
    ]
    names = ["video", "start_s", "end_s", "label", "probability", "similarity", "error"]
    _write_csv(path, names, rows, result)


def _write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[str]], result: Result) -> None:
    """Write rows padded to all columns, and one for each video that could not be read, with the error last."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(names)
    table.writerows([*row, *[""] * (len(names) - len(row))] for row in rows)
    for failure in result["failed"]:
        table.writerow([failure["video"], *[""] * (len(names) - 2), failure["error"]])
    write_text(path, text.getvalue())


def _lines(path: Path, items: Iterable[Result], result: Result) -> None:
    write_text(
        path, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in [*items, *result["failed"]])
    )


def _predictions_lines(path: Path, result: Result) -> None:
    _lines(path, result["predictions"], result)


def _segments_lines(path: Path, result: Result) -> None:
    videos = result["timelines"]
    _lines(
        path, ({"video": one["video"], **segment} for one in videos for segment in one["segments"]), result
    )


def _subtitles(path: Path, result: Result) -> None:
    """Write SubRip: a number, a span and a text each, with an empty line between."""
    segments = [s for one in result["timelines"] for s in one["segments"] if s["label"] is not None]
    entries = (
        f"{number}\n{_stamp(one['start_s'])} --> {_stamp(one['end_s'])}\n"
        f"{one['label']} ({100 * one['probability']:.0f}%)\n"
        for number, one in enumerate(segments, 1)
    )
    write_text(path, "\n".join(entries))


def _stamp(seconds: float) -> str:
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02},{milliseconds:03}"


def _number(value: Any) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)


Writer = Callable[[Path, Result], None]
PREDICTION_FORMATS: dict[str, Writer] = {
    ".csv": _predictions_csv,
    ".json": write_json,
    ".jsonl": _predictions_lines,
}
SEGMENT_FORMATS: dict[str, Writer] = {
    ".csv": _segments_csv,
    ".json": write_json,
    ".jsonl": _segments_lines,
    ".srt": _subtitles,
}
PICTURES = (".png", ".svg")
