"""Draw a contact sheet: one image of the hits of each query, with a row of frames per hit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from vactk.errors import VactkError, pick
from vactk.files.atomic import atomic_path
from vactk.progress import Progress
from vactk.retrieval.hits import Hit
from vactk.retrieval.results.fonts import fitted, font
from vactk.retrieval.results.thumbnails import hit_stills
from vactk.video.container import VideoError

MARGIN, GAP = 32, 8
TEXT_WIDTH = 340
CELL = (192, 144)  # (width, height) of a frame
HEADER = 76
ROW = CELL[1] + 2 * GAP
LARGEST_HEIGHT = 16_000  # pixels, about 100 hits; every viewer opens it
MOST_FRAMES = 16

PAPER, INK, FAINT, LINE = "#ffffff", "#16181d", "#6b7280", "#e5e7eb"
ACCENT, WARNING, FRAME_GROUND = "#3457d5", "#b42318", "#f1f2f4"


@dataclass(frozen=True)
class Block:
    """A query and the hits that are drawn for it."""

    query: str
    hits: Sequence[Hit]
    found: int

    @property
    def height(self) -> int:
        return HEADER + ROW * max(1, len(self.hits))


def contact_sheet(
    hits_by_query: Mapping[str, Sequence[Hit]],
    path: Path,
    frames: int = 5,
    *,
    progress: Progress | None = None,
) -> list[str]:
    """Write a PNG or JPEG with a header per query and a row per hit; return messages about what it lacks.

    A missing or unreadable video becomes a row that says so. If the hits do not fit into `LARGEST_HEIGHT`, each
    query's best are drawn. Raises VactkError as `check_sheet` does.
    """
    check_sheet(path, frames)
    messages: list[str] = []
    blocks = _blocks(hits_by_query, messages)
    width = 2 * MARGIN + TEXT_WIDTH + frames * (CELL[0] + GAP)
    height = 2 * MARGIN + sum(block.height for block in blocks)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    top, done, total = MARGIN, 0, sum(len(block.hits) for block in blocks)
    for block in blocks:
        _draw_header(draw, block, top, width)
        for number, hit in enumerate(block.hits):
            _draw_hit(sheet, draw, hit, top + HEADER + number * ROW, frames, messages)
            done += 1
            if progress is not None:
                progress(done, total)
        top += block.height
    with atomic_path(path, "--sheet") as temporary:
        sheet.save(temporary, format=FORMATS[path.suffix.lower()], **SAVING[path.suffix.lower()])
    return messages


def check_sheet(path: Path, frames: int = 5) -> None:
    """Raises VactkError for an unknown image format or a file that exists; called before a long search."""
    pick(FORMATS, path.suffix.lower(), "image format for --sheet, by its suffix,")
    if path.exists():
        raise VactkError(f"--sheet '{path}' exists; choose another, or delete it first")
    if not 1 <= frames <= MOST_FRAMES:
        raise VactkError(f"a contact sheet shows 1 to {MOST_FRAMES} frames per hit, got {frames}")


def _blocks(hits_by_query: Mapping[str, Sequence[Hit]], messages: list[str]) -> list[Block]:
    """Return as many queries as fit, each with as many hits as fit."""
    room = LARGEST_HEIGHT - 2 * MARGIN
    queries = list(hits_by_query)[: room // (HEADER + ROW)]
    if len(queries) < len(hits_by_query):
        messages.append(f"the contact sheet shows the first {len(queries)} of {len(hits_by_query)} queries")
    rows_left = (room - len(queries) * HEADER) // ROW
    counts = dict.fromkeys(queries, 1)
    wanted = {query: max(1, len(hits_by_query[query])) for query in queries}
    rows_left -= len(queries)
    while rows_left and (open_queries := [query for query in queries if counts[query] < wanted[query]]):
        for query in open_queries[:rows_left]:
            counts[query] += 1
            rows_left -= 1
    blocks = [Block(q, hits_by_query[q][: counts[q]], len(hits_by_query[q])) for q in queries]
    messages += [
        f"the contact sheet shows the first {len(block.hits)} of {block.found} hits of '{block.query}'"
        for block in blocks
        if len(block.hits) < block.found
    ]
    return blocks


def _draw_header(draw: ImageDraw.ImageDraw, block: Block, top: int, width: int) -> None:
    shown = "" if len(block.hits) == block.found else f", the first {len(block.hits)} shown"
    count = f"{block.found} hit{'' if block.found == 1 else 's'}{shown}"
    draw.text((MARGIN, top), fitted(block.query, 30, width - 2 * MARGIN), INK, font(block.query, 30))
    draw.text((MARGIN, top + 38), count, FAINT, font(count, 17))
    draw.line((MARGIN, top + HEADER - GAP, width - MARGIN, top + HEADER - GAP), LINE, 2)


def _draw_hit(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, hit: Hit, top: int, frames: int, messages: list[str]
) -> None:
    left = MARGIN + TEXT_WIDTH
    _draw_text(draw, hit, top)
    try:
        pictures, times_s = hit_stills(hit, frames, CELL[1])
    except VideoError as error:
        messages.append(str(error))
        box = (left, top, left + frames * (CELL[0] + GAP) - GAP, top + CELL[1])
        draw.rounded_rectangle(box, 6, FRAME_GROUND)
        why = fitted(str(error).partition("': ")[2] or str(error), 18, box[2] - box[0] - 2 * MARGIN)
        draw.text((left + MARGIN // 2, top + CELL[1] // 2), why, WARNING, font(why, 18), "lm")
        return
    for number, (picture, time_s) in enumerate(zip(pictures, times_s, strict=True)):
        corner = left + number * (CELL[0] + GAP), top
        sheet.paste(ImageOps.pad(picture, CELL, Image.Resampling.BICUBIC, FRAME_GROUND), corner)
        _draw_time(draw, f"{time_s:.1f} s", corner)


def _draw_text(draw: ImageDraw.ImageDraw, hit: Hit, top: int) -> None:
    rank, room = f"{hit.rank}", TEXT_WIDTH - 72
    draw.text((MARGIN, top - 2), rank, ACCENT, font(rank, 26))
    lines = [
        (hit.video.name, 19, INK),
        (f"{hit.start_s:.1f} to {hit.end_s:.1f} s", 17, FAINT),
        (f"score {hit.score:.3f}", 17, FAINT),
        (hit.label, 17, FAINT),
    ]
    for number, (text, size, colour) in enumerate(lines):
        corner = MARGIN + 52, top + 2 + number * 28
        draw.text(corner, fitted(text, size, room), colour, font(text, size))


def _draw_time(draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int]) -> None:
    anchor = corner[0] + 7, corner[1] + CELL[1] - 6
    left, top, right, bottom = draw.textbbox(anchor, text, font(text, 13), "ls")
    draw.rounded_rectangle((left - 4, top - 3, right + 4, bottom + 3), 3, "#000000")
    draw.text(anchor, text, "#ffffff", font(text, 13), "ls")


FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
SAVING: dict[str, dict[str, int]] = {".png": {}, ".jpg": {"quality": 90}, ".jpeg": {"quality": 90}}
