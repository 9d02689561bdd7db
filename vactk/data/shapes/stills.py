"""Still pictures of the world with captions: all that the toy CLIP has ever seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from vactk.data.shapes.outlines import OUTLINES
from vactk.data.shapes.world import (
    ANGLE,
    BACKGROUNDS,
    COLORS,
    RADIUS,
    SIZE,
    Look,
    X,
    Y,
    draw,
    size_word,
)

SPLITS = {"train": 0, "test": 1}
MAX_TILT = 75.0  # degrees to both sides, where objects turn
REST_TILT = 20.0  # where they do not
UPRIGHT = 15.0  # degrees to both sides that count as upright


class Stills(NamedTuple):
    """N pictures."""

    images: Tensor  # (N, 3, SIZE, SIZE) uint8
    captions: list[str]  # all that is seen, or most of it
    details: list[str]  # the object, and where it is, how it stands or how large it is
    shapes: Tensor  # (N,) int64, places in `shape_names()`
    colors: Tensor  # (N,) int64, places in `color_names()`


def shape_names() -> tuple[str, ...]:
    """The objects of the world, by their names."""
    return tuple(OUTLINES)


def color_names() -> tuple[str, ...]:
    """The colours of objects, by their names."""
    return tuple(COLORS)


def load_stills(split: str, num_stills: int, seed: int = 0) -> Stills:
    """`num_stills` pictures of "train" or "test", drawn now: the same for the same arguments."""
    rng = np.random.default_rng([SPLITS[split], seed])
    shapes = rng.integers(len(OUTLINES), size=num_stills)
    colors = rng.integers(len(COLORS), size=num_stills)
    images, captions, details = [], [], []
    for shape, color in zip(shapes, colors, strict=True):
        look = Look(
            shape=shape_names()[shape],
            color=color_names()[color],
            background=list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))],
        )
        pose = _pose(rng)
        images.append(draw(look, pose[None], rng)[0])
        captions.append(_caption(look, pose, rng))
        details.append(_detail(look, pose, rng))
    return Stills(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        captions,
        details,
        torch.from_numpy(shapes),
        torch.from_numpy(colors),
    )


def _pose(rng: Generator) -> np.ndarray:
    """(4,): anywhere an object can be in a clip."""
    pose = np.empty(4, dtype=np.float32)
    pose[[X, Y]] = rng.uniform(11, SIZE - 11, 2)
    pose[RADIUS] = rng.uniform(7.5, 18)
    tilt = MAX_TILT if rng.random() < 0.4 else REST_TILT
    pose[ANGLE] = rng.uniform(-tilt, tilt)
    return pose


def _caption(look: Look, pose: np.ndarray, rng: Generator) -> str:
    """What is seen, in one of several wordings: size, colour and name, then place, tilt and background or not."""
    size = size_word(float(pose[RADIUS]))
    if size and rng.random() < 0.3:
        size = {"small": "smaller", "large": "larger"}[size]
    parts = ["a", size if rng.random() < 0.5 else "", look.color if rng.random() < 0.6 else "", look.shape]
    if rng.random() < 0.4:
        parts.append(_tilt(float(pose[ANGLE])))
    if rng.random() < 0.4:
        parts.append(_place(float(pose[X]), float(pose[Y]), rng))
    if rng.random() < 0.4:
        parts.append(BACKGROUNDS[look.background].words)
    return " ".join(filter(None, parts))


def _detail(look: Look, pose: np.ndarray, rng: Generator) -> str:
    size = {"small": "smaller than most", "": "of middling size", "large": "larger than most"}
    tilt, place = _tilt(float(pose[ANGLE])), _place(float(pose[X]), float(pose[Y]), rng)
    choices = (place, tilt, size[size_word(float(pose[RADIUS]))])
    chosen = choices[rng.choice(len(choices), p=(0.6, 0.25, 0.15))]
    return " ".join(filter(None, ["a", look.shape, chosen]))


def _tilt(angle: float) -> str:
    if abs(angle) < UPRIGHT:
        return "upright"
    return "turned clockwise" if angle > 0 else "turned counterclockwise"


def _place(x: float, y: float, rng: Generator) -> str:
    """The side on which an object is, horizontally or vertically; empty in the middle."""
    names = {
        (-1, True): ("on the left", "left"),
        (1, True): ("on the right", "right"),
        (-1, False): ("at the top", "up", "up high"),
        (1, False): ("at the bottom", "down", "down low"),
    }
    across = rng.random() < 0.5
    offset = (x if across else y) - SIZE / 2
    if abs(offset) < SIZE / 10:
        return ""
    words = names[int(np.sign(offset)), across]
    return words[rng.integers(len(words))]
