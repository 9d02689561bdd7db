"""Still images of `shapes` with captions, the only training data of the toy CLIP."""

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
MAX_TILT = 75.0  # degrees to either side, of turned objects
REST_TILT = 20.0  # degrees to either side, of the others
UPRIGHT = 15.0  # smaller tilts, in degrees, are called upright


class Stills(NamedTuple):
    """N images with captions and labels."""

    images: Tensor  # (N, 3, SIZE, SIZE) uint8
    captions: list[str]  # describe all or most of the image
    details: list[str]  # name the object and its position, tilt or size
    shapes: Tensor  # (N,) int64, indices into `shape_names()`
    colors: Tensor  # (N,) int64, indices into `color_names()`


def shape_names() -> tuple[str, ...]:
    """Return the names of all objects."""
    return tuple(OUTLINES)


def color_names() -> tuple[str, ...]:
    """Return the names of all object colours."""
    return tuple(COLORS)


def load_stills(split: str, num_stills: int, seed: int = 0) -> Stills:
    """Draw `num_stills` images of split "train" or "test", deterministically."""
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
    """Return a random pose, float32 (4,), within the range of the videos."""
    pose = np.empty(4, dtype=np.float32)
    pose[[X, Y]] = rng.uniform(11, SIZE - 11, 2)
    pose[RADIUS] = rng.uniform(7.5, 18)
    tilt = MAX_TILT if rng.random() < 0.4 else REST_TILT
    pose[ANGLE] = rng.uniform(-tilt, tilt)
    return pose


def _caption(look: Look, pose: np.ndarray, rng: Generator) -> str:
    """Describe the image in one of several wordings: size, colour and name, perhaps position, tilt, background."""
    size = size_word(float(pose[RADIUS]))
    if size and rng.random() < 0.3:
        size = {"small": "smaller", "large": "larger"}[size]
    phrases = ["a", size if rng.random() < 0.5 else "", look.color if rng.random() < 0.6 else "", look.shape]
    if rng.random() < 0.4:
        phrases.append(_tilt(float(pose[ANGLE])))
    if rng.random() < 0.4:
        phrases.append(_side(float(pose[X]), float(pose[Y]), rng))
    if rng.random() < 0.4:
        phrases.append(BACKGROUNDS[look.background].words)
    return " ".join(filter(None, phrases))


def _detail(look: Look, pose: np.ndarray, rng: Generator) -> str:
    size = {"small": "smaller than most", "": "of middling size", "large": "larger than most"}
    tilt, side = _tilt(float(pose[ANGLE])), _side(float(pose[X]), float(pose[Y]), rng)
    choices = (side, tilt, size[size_word(float(pose[RADIUS]))])
    chosen = choices[rng.choice(len(choices), p=(0.6, 0.25, 0.15))]
    return " ".join(filter(None, ["a", look.shape, chosen]))


def _tilt(angle: float) -> str:
    if abs(angle) < UPRIGHT:
        return "upright"
    return "turned clockwise" if angle > 0 else "turned counterclockwise"


def _side(x: float, y: float, rng: Generator) -> str:
    """Return the side on which an object is, horizontally or vertically; empty in the middle."""
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
