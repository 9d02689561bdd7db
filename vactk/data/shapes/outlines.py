"""The outlines of the objects, as signed distances: negative inside, positive outside.

A distance function takes u (to the right) and v (down), in radii from the object's centre, and returns radii.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Distance = Callable[[Array, Array], Array]


def _circle(x: float, y: float, radius: float) -> Distance:
    return lambda u, v: np.hypot(u - x, v - y) - radius


def _ellipse(x: float, y: float, width: float, height: float) -> Distance:
    return lambda u, v: (np.hypot((u - x) / width, (v - y) / height) - 1) * min(width, height)


def _polygon(*points: tuple[float, float]) -> Distance:
    def distance(u: Array, v: Array) -> Array:
        nearest, inside = np.full_like(u, np.inf), np.zeros(u.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
            ex, ey, du, dv = bx - ax, by - ay, u - ax, v - ay
            along = np.clip((du * ex + dv * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, np.hypot(du - ex * along, dv - ey * along))
            if ey:
                inside ^= ((ay > v) != (by > v)) & (du < ex / ey * dv)
        return np.where(inside, -nearest, nearest)

    return distance


def _box(left: float, top: float, right: float, bottom: float) -> Distance:
    return _polygon((left, top), (right, top), (right, bottom), (left, bottom))


def _union(*shapes: Distance) -> Distance:
    return lambda u, v: np.minimum.reduce([shape(u, v) for shape in shapes])


def _without(whole: Distance, hole: Distance) -> Distance:
    return lambda u, v: np.maximum(whole(u, v), -hole(u, v))


def _star(points: int, inner: float) -> Distance:
    angles = np.arange(2 * points) * np.pi / points
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return _polygon(*zip((radii * np.sin(angles)).tolist(), (-radii * np.cos(angles)).tolist(), strict=True))


OUTLINES: dict[str, Distance] = {
    "star": _star(5, 0.42),
    "heart": _union(
        _circle(-0.45, -0.3, 0.5),
        _circle(0.45, -0.3, 0.5),
        _polygon((-0.83, 0.02), (0, -0.5), (0.83, 0.02), (0, 0.95)),
    ),
    "triangle": _polygon((0, -1), (0.87, 0.5), (-0.87, 0.5)),
    "moon": _without(_circle(0, 0, 1), _circle(0.5, 0, 0.85)),
    "house": _union(_polygon((0, -1), (0.95, -0.1), (-0.95, -0.1)), _box(-0.65, -0.2, 0.65, 0.85)),
    "key": _union(
        _without(_circle(0, -0.5, 0.5), _circle(0, -0.5, 0.2)),
        _box(-0.13, -0.05, 0.13, 1),
        _box(0, 0.35, 0.5, 0.55),
        _box(0, 0.75, 0.5, 0.97),
    ),
    "flag": _union(_box(-0.75, -1, -0.5, 1), _box(-0.75, -0.95, 0.8, 0.1)),
    "fish": _union(_ellipse(-0.25, 0, 0.75, 0.48), _polygon((0.2, 0), (1, -0.6), (1, 0.6))),
    "bolt": _polygon((0.35, -1), (-0.65, 0.15), (-0.08, 0.15), (-0.35, 1), (0.65, -0.15), (0.08, -0.15)),
    "tree": _union(
        _polygon((0, -1), (0.6, -0.2), (-0.6, -0.2)),
        _polygon((0, -0.6), (0.85, 0.5), (-0.85, 0.5)),
        _box(-0.17, 0.4, 0.17, 1),
    ),
    "mushroom": _union(_without(_circle(0, 0, 0.95), _box(-2, 0.05, 2, 2)), _box(-0.25, 0, 0.25, 0.9)),
    "drop": _union(_circle(0, 0.35, 0.58), _polygon((0, -1), (0.5, 0.05), (-0.5, 0.05))),
}
