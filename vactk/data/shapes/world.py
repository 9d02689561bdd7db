"""The objects, colours, backgrounds and motions of `shapes`, and their drawing.

A pose is (x, y, radius, angle): an object's centre (x to the right, y down) and radius in pixels, its angle in
degrees clockwise. A video is a track of poses over one background. Opposite motions are the same track run
forwards and backwards: no frame, and no unordered set of frames, tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vactk.data.shapes.outlines import OUTLINES, Array

SIZE = 64  # pixels, both sides
TABLE = 384  # samples along each side of an outline's distance table
REACH = 1.5  # the table covers [-REACH, REACH] radii
SMALL, LARGE = 11.0, 14.5  # radii below and above are called small and large
X, Y, RADIUS, ANGLE = range(4)  # columns of a pose

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.95, 0.22, 0.2),
    "orange": (0.98, 0.58, 0.1),
    "yellow": (0.97, 0.93, 0.2),
    "green": (0.2, 0.8, 0.25),
    "cyan": (0.2, 0.9, 0.95),
    "blue": (0.3, 0.45, 1.0),
    "purple": (0.7, 0.35, 0.95),
    "pink": (0.98, 0.6, 0.82),
    "white": (0.97, 0.97, 0.97),
}

MOTIONS: dict[str, tuple[int, int]] = {  # (changing column of the pose, direction)
    "moving left": (X, -1),
    "moving right": (X, 1),
    "moving up": (Y, -1),
    "moving down": (Y, 1),
    "getting larger": (RADIUS, 1),
    "getting smaller": (RADIUS, -1),
    "turning clockwise": (ANGLE, 1),
    "turning counterclockwise": (ANGLE, -1),
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """The constant properties of a video."""

    shape: str
    color: str
    background: str


def size_word(radius: float) -> str:
    """Return the word for an object of this radius; empty for a medium one."""
    if radius < SMALL:
        return "small"
    return "large" if radius > LARGE else ""


def caption_of(look: Look, *, size: str = "", motion: str = "") -> str:
    """Return a caption such as "a small red star moving left over stripes"."""
    return " ".join(
        filter(None, ["a", size, look.color, look.shape, motion, BACKGROUNDS[look.background].words])
    )


# Tracks


def _span(column: int, rng: Generator) -> tuple[float, float]:
    """Return the (lowest, highest) value of the changing column."""
    if column == ANGLE:
        low = rng.uniform(-75, -20)
        return low, low + rng.uniform(70, 95)
    if column == RADIUS:
        return rng.uniform(7.5, 10), rng.uniform(15, 18)
    length = rng.uniform(22, 36)
    low = rng.uniform(10, SIZE - 10 - length)
    return low, low + length


def track(motion: str, num_frames: int, rng: Generator) -> Array:
    """The poses (T, 4) of one clip; the opposite motion from the same state of `rng` is its reverse in time."""
    column, direction = MOTIONS[motion]
    rest = [rng.uniform(15, SIZE - 15), rng.uniform(15, SIZE - 15), rng.uniform(9, 16), rng.uniform(-20, 20)]
    low, high = _span(column, rng)
    time = np.linspace(0, 1, num_frames)
    pace = time + rng.uniform(-0.7, 0.7) * np.sin(2 * np.pi * time) / (2 * np.pi)  # slow at the ends, or fast
    poses = np.tile(np.asarray(rest, dtype=np.float32), (num_frames, 1))
    poses[:, column] = low + (high - low) * pace
    return poses[::direction]


# Backgrounds: how much of the second of two tones each pixel has, (SIZE, SIZE) in [0, 1]


@dataclass(frozen=True, kw_only=True)
class Background:
    """A background's painter and its description in captions."""

    words: str
    paint: Callable[[Generator], Array]


def _grid() -> tuple[Array, Array]:
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5
    return columns, rows


def _waves(rng: Generator, low: float, high: float) -> tuple[Array, Array]:
    """Return two coordinates, randomly rotated, in periods of `low` to `high` pixels."""
    columns, rows = _grid()
    angle, period = rng.uniform(0, np.pi), rng.uniform(low, high)
    along = (columns * np.cos(angle) + rows * np.sin(angle)) / period + rng.uniform(0, 1)
    across = (rows * np.cos(angle) - columns * np.sin(angle)) / period + rng.uniform(0, 1)
    return along, across


def _square_wave(phase: Array) -> Array:
    """Return 1 in the first half of each period and 0 in the second, with soft edges."""
    return np.clip(4 * np.sin(2 * np.pi * phase) + 0.5, 0, 1)


def _plain(rng: Generator) -> Array:
    return np.zeros((SIZE, SIZE), dtype=np.float32)


def _stripes(rng: Generator) -> Array:
    return _square_wave(_waves(rng, 8, 16)[0])


def _checks(rng: Generator) -> Array:
    along, across = _waves(rng, 14, 24)
    return np.abs(_square_wave(along) - _square_wave(across))


def _dots(rng: Generator) -> Array:
    along, across = _waves(rng, 9, 14)
    return np.clip(4 * (np.cos(2 * np.pi * along) + np.cos(2 * np.pi * across)) - 1.5, 0, 1)


def _lattice(rng: Generator) -> Array:
    along, across = _waves(rng, 9, 15)
    return np.clip(6 * np.maximum(np.cos(2 * np.pi * along), np.cos(2 * np.pi * across)) - 4, 0, 1)


def _gradient(rng: Generator) -> Array:
    columns, rows = _grid()
    angle = rng.uniform(0, 2 * np.pi)
    return 0.5 + ((columns - SIZE / 2) * np.cos(angle) + (rows - SIZE / 2) * np.sin(angle)) / (1.5 * SIZE)


def _noise(rng: Generator) -> Array:
    coarse = rng.uniform(0, 1, (SIZE // 2, SIZE // 2)).astype(np.float32)
    return coarse.repeat(2, axis=0).repeat(2, axis=1)


BACKGROUNDS: dict[str, Background] = {
    "plain": Background(words="on a plain background", paint=_plain),
    "stripes": Background(words="over stripes", paint=_stripes),
    "checks": Background(words="over checks", paint=_checks),
    "dots": Background(words="over dots", paint=_dots),
    "grid": Background(words="over a grid", paint=_lattice),
    "gradient": Background(words="over a gradient", paint=_gradient),
    "noise": Background(words="over noise", paint=_noise),
}


# Drawing


@cache
def _table(shape: str) -> Array:
    """Return distances to an outline on a grid, (TABLE, TABLE), which are faster to look up than to compute."""
    steps = ((np.arange(TABLE) + 0.5) / TABLE * 2 - 1) * REACH
    u, v = np.meshgrid(steps, steps)
    return OUTLINES[shape](u, v).astype(np.float32)


def cover(shape: str, poses: Array) -> Array:
    """Return the object's coverage of each pixel. poses (T, 4) -> (T, SIZE, SIZE) in [0, 1]."""
    columns, rows = _grid()
    x, y, radius, angle = poses.astype(np.float32).T[:, :, None, None]
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    right, down = (columns - x) / radius, (rows - y) / radius
    scale, middle = np.float32(TABLE / (2 * REACH)), np.float32(TABLE / 2)
    across = np.clip((right * cos + down * sin) * scale + middle, 0, TABLE - 1).astype(np.int32)
    below = np.clip((down * cos - right * sin) * scale + middle, 0, TABLE - 1).astype(np.int32)
    return np.clip(0.5 - _table(shape)[below, across] * radius, 0, 1)


def _tones(rng: Generator) -> tuple[Array, Array]:
    """Return two dark, greyish colours: objects are lighter than backgrounds."""
    light, step = rng.uniform(0.1, 0.22), rng.uniform(0.06, 0.12)
    tint = rng.uniform(-0.03, 0.03, 3)
    return light + tint, light + step + tint


def draw(look: Look, poses: Array, rng: Generator) -> NDArray[np.uint8]:
    """Draw the frames of a video. poses (T, 4) -> uint8 (T, SIZE, SIZE, 3); `rng` picks tones, pattern and tint."""
    first, second = _tones(rng)
    behind = first + (second - first) * BACKGROUNDS[look.background].paint(rng)[..., None]
    tint = np.clip(np.asarray(COLORS[look.color]) + rng.uniform(-0.05, 0.05, 3), 0, 1)
    covered = cover(look.shape, poses)[..., None]
    frames = behind + (tint - behind).astype(np.float32) * covered
    return np.round(np.clip(frames, 0, 1) * 255).astype(np.uint8)
