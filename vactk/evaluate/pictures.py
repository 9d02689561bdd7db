"""What pictures have in common: whether they can be drawn, labels that do not collide, intervals, files."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vactk.errors import VactkError
from vactk.files.atomic import atomic_path

BLUE, RED, INK, FAINT = "#2a6fbb", "#c0392b", "#16181d", "#6b7280"
OFFSETS = [  # of a label from its point, in points; the nearest first
    (radius * math.cos(angle), radius * math.sin(angle))
    for radius in (9, 16, 24)
    for angle in (math.pi / 4 * turn for turn in (1, 3, 7, 5, 2, 6, 0, 4))
]


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def check_can_draw(what: str) -> None:
    """Raise VactkError if matplotlib is not installed."""
    if not can_draw():
        raise VactkError(f"{what} is drawn by a package: pip install 'vactk[report]'")


def new_figure(width: float, height: float, rows: int = 1) -> Any:
    """Return the axes of a new figure, in inches; an array of them for several rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # without which nothing has a size in pixels
    return figure.subplots(rows)


def shortened(text: str, most: int = 60) -> str:
    """Return `text` with its beginning left out if it is longer than `most` characters."""
    return text if len(text) <= most else f"...{text[3 - most :]}"


def label_points(
    axes: Any, points: Sequence[tuple[float, float]], texts: Sequence[str], first: Iterable[int] = ()
) -> list[str]:
    """Write a text beside each point of a line, off the line and other texts; return those that found no room.

    `first`: numbers of the points that are labelled before the others. Called when all else is drawn.
    """
    from matplotlib.patheffects import Normal, Stroke

    figure = axes.figure
    figure.canvas.draw()  # which fixes where points are
    renderer = figure.canvas.get_renderer()
    room = axes.get_window_extent(renderer)
    legend = axes.get_legend()
    taken = [] if legend is None else [legend.get_window_extent(renderer)]
    corners = axes.transData.transform(points)
    pixels = np.concatenate([np.linspace(a, b, 40) for a, b in itertools.pairwise([*corners, corners[-1]])])
    order = [*dict.fromkeys([*first, *range(len(points))])]
    left_out = []
    for number in order:
        text = axes.annotate(
            texts[number],
            points[number],
            (0, 0),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="center",
            path_effects=[Stroke(linewidth=2.5, foreground="white"), Normal()],
        )
        for offset in OFFSETS:
            text.set_position(offset)
            box = text.get_window_extent(renderer).padded(1)
            inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
            if inside and not box.count_overlaps(taken) and not any(box.contains(x, y) for x, y in pixels):
                taken.append(box)
                break
        else:
            text.remove()
            left_out.append(texts[number])
    return left_out


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format of the suffix."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)
