"""Write hits to files: a contact sheet, and clips cut out of the videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vactk.errors import VactkError
from vactk.progress import Reporter
from vactk.retrieval.hits import Hit
from vactk.retrieval.results.clips import cut_clips, query_folder
from vactk.retrieval.results.contact_sheet import check_sheet, contact_sheet


def check_outputs(sheet: Path | None, clips: Path | None) -> None:
    """Raises VactkError for outputs that cannot be written, before a long search."""
    if sheet is not None:
        check_sheet(sheet)
    if clips is not None and clips.exists() and not clips.is_dir():
        raise VactkError(f"--cut '{clips}' is a file: name a folder for the clips")


def write_hits(
    hits: Mapping[str, Sequence[Hit]], sheet: Path | None, clips: Path | None, reporter: Reporter
) -> dict[str, Any]:
    """Write the hits of each query to a contact sheet, and as clips to a folder.

    Returns the paths, and messages about hits that could not be read, under the keys that scripts rely on.
    """
    result: dict[str, Any] = {}
    problems: list[str] = []
    if sheet is not None:
        problems += contact_sheet(hits, sheet, progress=reporter.progress("contact sheet"))
        result["sheet"] = str(sheet)
    if clips is not None:
        paths, unreadable = _write_clips(hits, clips, reporter)
        result["clips"] = [str(path) for path in paths]
        problems += unreadable
    for problem in problems:
        reporter.message(problem)
    return {**result, "not_shown": problems} if problems else result


def _write_clips(
    hits: Mapping[str, Sequence[Hit]], folder: Path, reporter: Reporter
) -> tuple[list[Path], list[str]]:
    """Write clips, with several queries each to its own subfolder; return the paths and the problems."""
    written: list[Path] = []
    problems: list[str] = []
    for number, (query, own) in enumerate(hits.items(), 1):
        target = folder if len(hits) == 1 else query_folder(folder, number, query)
        paths, unreadable = cut_clips(own, target, progress=reporter.progress(f"clips of '{query[:40]}'"))
        written += paths
        problems += unreadable
    return written, problems
