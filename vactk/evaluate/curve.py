"""Draw the accuracy curve of an alpha sweep."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vactk.files.atomic import atomic_path


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_curve(
    stem: Path, names: Sequence[str], alphas: Sequence[float], top1: Sequence[Sequence[float]], best: float
) -> list[Path]:
    """Draw top-1 of the first two sets against each other, or of one against alpha, labelled with alphas.

    top1 has a row for each of `names`, in %. Writes `stem`.png and `stem`.svg, and returns their paths.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes: Any = figure.subplots()
    against = len(names) > 1
    x, y = (top1[0], top1[1]) if against else (alphas, top1[0])
    axes.plot(x, y, "-o", color="#2a6fbb", markersize=5)
    every = max(1, round(len(alphas) / 11))
    for i, alpha in enumerate(alphas):
        if i % every == 0 or i == len(alphas) - 1 or alpha == best:
            axes.annotate(f"{alpha:g}", (x[i], y[i]), textcoords="offset points", xytext=(5, 5), fontsize=8)
    chosen = list(alphas).index(best)
    label = f"best trade-off: alpha {best:g}"
    axes.plot([x[chosen]], [y[chosen]], "*", color="#c0392b", markersize=14, label=label)
    axes.set_xlabel(f"{names[0]}, top-1 (%)" if against else "alpha")
    axes.set_ylabel(f"{names[1] if against else names[0]}, top-1 (%)")
    axes.set_title("(1 - alpha) A + alpha B" + (", alpha beside the points" if against else ""), fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    paths = []
    for suffix in (".png", ".svg"):
        path = stem.with_name(stem.name + suffix)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=suffix[1:], dpi=150)
        paths.append(path)
    return paths
