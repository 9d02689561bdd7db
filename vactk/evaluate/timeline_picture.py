"""Draw the timelines of videos: a row for each label that appears, with its segments and its probability."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from vactk.evaluate.pictures import BLUE, FAINT, new_figure, save_figure, shortened
from vactk.evaluate.timeline import Timelines, VideoTimeline

MOST_VIDEOS = 12
MOST_ROWS = 30  # labels of a video, those that are longest there
ROW_INCHES, FRAME_INCHES, WIDTH_INCHES = 0.36, 1.1, 11.0
LABEL_CHARACTERS = 28  # of a line


def draw_timelines(path: Path, found: Timelines, model: str) -> None:
    """Write a PNG or SVG with the timelines of up to `MOST_VIDEOS` videos, one below another."""
    rows = [_rows(one) for one in found]
    heights = [
        FRAME_INCHES + ROW_INCHES * sum(text.count("\n") + 1 for text in map(_wrapped, own)) for own in rows
    ]
    all_axes = new_figure(WIDTH_INCHES, sum(heights), len(found))
    listed = np.atleast_1d(all_axes)
    listed[0].get_gridspec().set_height_ratios(heights)
    for axes, timeline, own in zip(listed, found, rows, strict=True):
        _draw(axes, timeline, own)
        axes.set_title(shortened(timeline.video.name, 80), fontsize=11, loc="left")
    how = f"windows of {found.windows.length_s:g} s every {found.windows.step_s:g} s; {shortened(model)}"
    listed[-1].set_xlabel(f"time, by {how}", fontsize=9, color=FAINT)
    save_figure(listed[0].figure, path)


def _rows(timeline: VideoTimeline) -> list[str]:
    """Return the labels that appear, in the order of the first time; of too many, those that are longest there."""
    length_s: dict[str, float] = {}
    for segment in timeline.segments:
        if segment.label is not None:
            length_s[segment.label] = length_s.get(segment.label, 0.0) + segment.end_s - segment.start_s
    kept = sorted(length_s, key=lambda label: -length_s[label])[:MOST_ROWS]
    return [label for label in length_s if label in kept] or ["none of these"]


def _draw(axes: Any, timeline: VideoTimeline, rows: list[str]) -> None:
    edges_s = np.array(timeline.edges_s)
    for row, label in enumerate(rows):
        if label in timeline.labels:
            own = timeline.probabilities[:, timeline.labels.index(label)].numpy()
            axes.stairs(row + 0.4 - 0.8 * own, edges_s, baseline=row + 0.4, fill=True, color=BLUE, alpha=0.22)
        for segment in timeline.segments:
            if segment.label == label:
                span = [(segment.start_s, segment.end_s - segment.start_s)]
                axes.broken_barh(span, (row - 0.4, 0.8), facecolor=BLUE, alpha=0.55, edgecolor="white")
    axes.set_yticks(range(len(rows)), [_wrapped(label) for label in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, timeline.duration_s)
    axes.xaxis.set_major_locator(_ticks(timeline.duration_s))
    axes.xaxis.set_major_formatter(lambda seconds, _: _clock(seconds))
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _wrapped(label: str) -> str:
    lines = textwrap.wrap(label, LABEL_CHARACTERS, max_lines=2, placeholder=" ...")
    return "\n".join(lines) or label


def _ticks(duration_s: float) -> Any:
    """Return ticks at whole seconds, minutes or hours, about ten of them."""
    from matplotlib.ticker import MultipleLocator

    steps_s = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
    return MultipleLocator(next((step for step in steps_s if duration_s / step <= 12), 2 * 3600))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    short = f"{rest:04.1f}" if rest % 1 else f"{rest:02.0f}"
    return f"{hours}:{minutes:02}:{short}" if hours else f"{minutes}:{short}"
