"""The charts of a report, as SVG: the same numbers give the same bytes."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vactk.report.figures import Figures
from vactk.report.metrics_log import Curve
from vactk.report.predictions import PredictedVideo
from vactk.report.statistics import confusion_order

COLORS = ("#2a6fbb", "#d1495b", "#2e8b57", "#e09f3e", "#7b5ea7", "#3aa6a6", "#8a8d91", "#b5651d")
LABELLED_CLASSES = 40  # up to which a confusion matrix names its classes
COUNTED_CLASSES = 15  # up to which it has numbers in its cells
LONGEST_LABEL = 28
STYLE = {
    "svg.hashsalt": "vactk",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
}


def line_chart(curves: Mapping[str, Curve], ylabel: str, *, dotted: Sequence[str] = ()) -> str:
    """Draw curves over training steps; those in `dotted` with a point for each value."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for number, (name, curve) in enumerate(curves.items()):
            x, y = zip(*curve, strict=True)
            mark = "-o" if name in dotted or len(curve) < 3 else "-"
            color = COLORS[number % len(COLORS)]
            axes.plot(x, y, mark, color=color, markersize=3.5, linewidth=1.3, label=shortened(name, 56))
        axes.set(xlabel="training step", ylabel=ylabel)
        _plain(axes)
        if len(curves) > 1:
            columns = 1 if max(map(len, curves)) > LONGEST_LABEL else 2
            legend = figure.legend(loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
            for text in legend.texts:
                text.set_parse_math(False)

    return _svg(draw, (4.8, 3.2 + 0.1 * len(curves)))


def calibration_chart(bins: Sequence[Figures]) -> str:
    """Draw the accuracy of answers against their probability, with the number of videos below."""

    def draw(figure: Any) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        middles = [50 * (one["low"] + one["high"]) for one in bins]
        upper.plot([0, 100], [0, 100], "--", color="#8a8d91", linewidth=1, label="as certain as right")
        upper.bar(middles, [one["accuracy"] for one in bins], 9, color="#2a6fbb", alpha=0.35)
        points = [one["confidence"] for one in bins], [one["accuracy"] for one in bins]
        upper.plot(*points, "o-", color="#2a6fbb", markersize=4, linewidth=1.3)
        upper.set(xlim=(0, 100), ylim=(0, 104), ylabel="right answers (%)")
        upper.legend(loc="upper left", fontsize=8, frameon=False)
        lower.bar(middles, [one["num_videos"] for one in bins], 9, color="#8a8d91")
        lower.set(xlabel="probability of the answer (%)", ylabel="videos")
        for axes in (upper, lower):
            _plain(axes)

    return _svg(draw, (4.8, 3.9))


def confusion_matrix(rows: Sequence[PredictedVideo]) -> tuple[str, float]:
    """Draw the shares of answers for each label, and return the width in inches at which it can be read.

    Above LABELLED_CLASSES classes, names are left out and classes that are confused stand together.
    """
    read = [row for row in rows if row.top]
    names = sorted({row.label for row in rows} | {row.answer for row in read})
    counts = np.zeros((len(names), len(names)))
    places = {name: place for place, name in enumerate(names)}
    for row in read:
        counts[places[row.label], places[row.answer]] += 1
    is_large = len(names) > LABELLED_CLASSES
    order = confusion_order(counts) if is_large else list(range(len(names)))
    counts, names = counts[np.ix_(order, order)], [names[i] for i in order]
    shares = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    labels_in = 0 if is_large else 0.075 * max(len(shortened(name)) for name in names)
    side = 4.6 if is_large else max(2.2, 0.2 * len(names))
    size = (side + labels_in + 1.1, side + labels_in + 0.6)

    def draw(figure: Any) -> None:
        from matplotlib.colors import PowerNorm

        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
        figure.colorbar(image, ax=axes, shrink=0.6, label="of the label's videos (%)", ticks=(0, 10, 50, 100))
        axes.grid(False)
        axes.set(xlabel="answer", ylabel="label")
        if is_large:
            axes.set(xticks=[], yticks=[])
            return
        shown = [shortened(name) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(len(names)), shown, fontsize=8, parse_math=False)
        for y, x in np.argwhere(counts > 0) if len(names) <= COUNTED_CLASSES else ():
            color = "white" if shares[y, x] > 40 else "#16181d"
            axes.text(x, y, f"{counts[y, x]:.0f}", ha="center", va="center", fontsize=7, color=color)

    return _svg(draw, size), 0.0 if is_large else size[0]


def shortened(name: str, limit: int = LONGEST_LABEL) -> str:
    """Return a name without its middle where it is too long for a chart."""
    half = (limit - 1) // 2
    return name if len(name) <= limit else f"{name[:half]}…{name[-half:]}"


def data_address(content: bytes, kind: str) -> str:
    """Return a file's content as an address that a page can hold."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _svg(draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    """Return a figure as the address of an image. `draw` receives a matplotlib Figure."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has others
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return data_address(buffer.getvalue(), "image/svg+xml")
