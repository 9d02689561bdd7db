"""Hits as files: a contact sheet, and clips cut out of the videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vactk.cli.display import Display
from vactk.errors import VactkError

if TYPE_CHECKING:
    from vactk.retrieval.hits import Hit


def check_files(sheet: Path | None, cut: Path | None) -> None:
    """Raises VactkError for what could not be written, before a long search."""
    if sheet is not None:
        from vactk.retrieval.results.contact_sheet import check_sheet

        check_sheet(sheet)
    if cut is not None and cut.exists() and not cut.is_dir():
        raise VactkError(f"--cut '{cut}' is a file: name a folder for the clips")


def write_files(
    hits: Mapping[str, Sequence[Hit]], sheet: Path | None, cut: Path | None, shown: Display
) -> dict[str, Any]:
    """The contact sheet and the clips that are asked for: their paths, and what could not be shown."""
    result: dict[str, Any] = {}
    told: list[str] = []
    if sheet is not None:
        from vactk.retrieval.results.contact_sheet import contact_sheet

        told += contact_sheet(hits, sheet, progress=shown.progress("contact sheet"))
        result["sheet"] = str(sheet)
    if cut is not None:
        result["clips"] = [str(path) for path in _cut(hits, cut, shown, told)]
    for line in told:
        shown.message(line)
    return {**result, "not_shown": told} if told else result


def _cut(hits: Mapping[str, Sequence[Hit]], folder: Path, shown: Display, told: list[str]) -> list[Path]:
    """The clips of each query in a folder of its own where there are several."""
    from vactk.retrieval.results.clips import cut_clips, query_folder

    written: list[Path] = []
    for number, (query, own) in enumerate(hits.items(), 1):
        place = folder if len(hits) == 1 else query_folder(folder, number, query)
        paths, failed = cut_clips(own, place, progress=shown.progress(f"clips of '{query[:40]}'"))
        written += paths
        told += failed
    return written
