"""Draw the accuracy curve of an alpha sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vactk.evaluate.pictures import BLUE, INK, RED, label_points, new_figure, save_figure, shortened
from vactk.report.statistics import wilson

BARS_BELOW = 5000  # videos: above that an interval is narrower than the markers


class SetCurve(NamedTuple):
    """The accuracies of all alphas on one set."""

    name: str
    top1: Sequence[float]  # in %
    num_videos: int

    def errors(self) -> list[list[float]] | None:
        """Return how far the 95 % intervals reach below and above; None for a large set."""
        if self.num_videos >= BARS_BELOW:
            return None
        known = [wilson(round(value * self.num_videos / 100), self.num_videos) for value in self.top1]
        return [[one.value - one.low for one in known], [one.high - one.value for one in known]]


def draw_curve(
    stem: Path, sets: Sequence[SetCurve], alphas: Sequence[float], best: float, models: tuple[str, str]
) -> list[Path]:
    """Draw top-1 of the first two sets against each other, or of one against alpha, labelled with alphas.

    `models`: names of A, which is alpha 0, and of B. Writes `stem`.png and `stem`.svg, and returns their paths.
    """
    axes = new_figure(7, 5.5)
    against = len(sets) > 1
    x, y = (sets[0].top1, sets[1].top1) if against else (alphas, sets[0].top1)
    errors = {"xerr": sets[0].errors(), "yerr": sets[1].errors()} if against else {"yerr": sets[0].errors()}
    if any(error is not None for error in errors.values()):
        counts = " and ".join(f"{one.num_videos:,}" for one in sets[:2])
        bars = f"95 % intervals, of {counts} videos"
        axes.errorbar(x, y, **errors, fmt="none", ecolor=BLUE, alpha=0.3, elinewidth=1, label=bars)
    axes.plot(x, y, "-o", color=BLUE, markersize=4)
    points = dict(zip(alphas, zip(x, y, strict=True), strict=True))
    for alpha, marker, model in ((0.0, "s", models[0]), (1.0, "D", models[1])):
        at = [[value] for value in points[alpha]] if alpha in points else [[], []]
        axes.plot(
            *at, marker if alpha in points else " ", color=INK, label=f"alpha {alpha:g}: {shortened(model)}"
        )
    label = f"best trade-off: alpha {best:g}"
    axes.plot(*([value] for value in points[best]), "*", color=RED, markersize=14, label=label)
    axes.set_xlabel(f"{sets[0].name}, top-1 (%)" if against else "alpha")
    axes.set_ylabel(f"{sets[1 if against else 0].name}, top-1 (%)")
    axes.set_title("(1 - alpha) A + alpha B" + (", alpha beside the points" if against else ""), fontsize=10)
    axes.margins(0.08)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    first = [alphas.index(best), 0, len(alphas) - 1]
    label_points(axes, list(points.values()), [f"{alpha:g}" for alpha in alphas], first)
    paths = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg")]
    for path in paths:
        save_figure(axes.figure, path)
    return paths
