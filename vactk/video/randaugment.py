"""RandAugment as timm and PySlowFast have it: the increasing list of operations, with Pillow's own arithmetic.

Pillow's affine transforms interpolate otherwise than torch's, so that another implementation gives other pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn

PROBABILITY = 0.5  # that a drawn operation is applied
MAX_LEVEL = 10.0
FILL = (128, 128, 128)  # what comes in from outside of a picture
SOLARIZED = 128  # brightness below which "SolarizeAdd" adds

Draw = tuple[str, float | None]  # an operation of OPERATIONS, and its argument if it takes one


class RandAugment(nn.Module):
    """Random operations on pictures, the same for all frames of a view."""

    def __init__(self, num_ops: int, magnitude: float, spread: float) -> None:
        """Each of `num_ops` operations has a level of its own, normal around `magnitude`, from 0 to 10."""
        super().__init__()
        self.num_ops, self.magnitude, self.spread = num_ops, magnitude, spread

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 (T, 3, H, W) -> uint8 (T, 3, H, W)"""
        return apply_operations(frames, self.draw())

    def draw(self) -> list[Draw]:
        """The operations for one view with their arguments, from torch's global generator."""
        names = list(OPERATIONS)
        drawn: list[Draw] = []
        for number in torch.randint(len(names), (self.num_ops,)).tolist():
            applied, negative, normal = float(torch.rand(())), float(torch.rand(())), float(torch.randn(()))
            if applied < PROBABILITY:
                level = min(max(self.magnitude + self.spread * normal, 0.0), MAX_LEVEL)
                drawn.append((names[number], argument(names[number], level, negative=negative > 0.5)))
        return drawn


def apply_operations(frames: Tensor, drawn: Sequence[Draw]) -> Tensor:
    """Operations in their order on every frame. uint8 (T, 3, H, W) -> uint8 (T, 3, H, W)"""
    if not drawn:
        return frames
    changed = []
    for frame in frames.permute(0, 2, 3, 1).numpy():
        picture = Image.fromarray(np.ascontiguousarray(frame))
        for name, value in drawn:
            operation = OPERATIONS[name][0]
            picture = operation(picture) if value is None else operation(picture, value)
        changed.append(torch.from_numpy(np.array(picture)))
    return torch.stack(changed).permute(0, 3, 1, 2)  # (T, 3, H, W)


def argument(name: str, level: float, *, negative: bool = False) -> float | None:
    """What an operation takes at a level from 0 to 10; `negative` turns around those that have two directions."""
    _, at_level = OPERATIONS[name]
    return None if at_level is None else at_level(level / MAX_LEVEL, -1 if negative else 1)


def _solarize_add(picture: Image.Image, added: float) -> Image.Image:
    table = [min(255, value + int(added)) if value < SOLARIZED else value for value in range(256)]
    return picture.point(table * len(picture.getbands()))


def _affine(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=FILL
    )


def _rotate(picture: Image.Image, degrees: float) -> Image.Image:
    return picture.rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor=FILL)


def _enhance(kind: type, picture: Image.Image, factor: float) -> Image.Image:
    enhanced: Image.Image = kind(picture).enhance(factor)
    return enhanced


def _signed(most: float, share: float, sign: int) -> float:
    return sign * share * most


def _factor(share: float, sign: int) -> float:
    return 1.0 + sign * share * 0.9


Operation = Callable[..., Image.Image]
AtLevel = Callable[[float, int], float]  # the share of the highest level, and the sign
# the release's names, in its order
OPERATIONS: dict[str, tuple[Operation, AtLevel | None]] = {
    "AutoContrast": (ImageOps.autocontrast, None),
    "Equalize": (ImageOps.equalize, None),
    "Invert": (ImageOps.invert, None),
    "Rotate": (_rotate, partial(_signed, 30.0)),
    "PosterizeIncreasing": (ImageOps.posterize, lambda share, _: 4 - int(share * 4)),
    "SolarizeIncreasing": (ImageOps.solarize, lambda share, _: 256 - int(share * 256)),
    "SolarizeAdd": (_solarize_add, lambda share, _: int(share * 110)),
    "ColorIncreasing": (partial(_enhance, ImageEnhance.Color), _factor),
    "ContrastIncreasing": (partial(_enhance, ImageEnhance.Contrast), _factor),
    "BrightnessIncreasing": (partial(_enhance, ImageEnhance.Brightness), _factor),
    "SharpnessIncreasing": (partial(_enhance, ImageEnhance.Sharpness), _factor),
    "ShearX": (lambda picture, x: _affine(picture, (1, x, 0, 0, 1, 0)), partial(_signed, 0.3)),
    "ShearY": (lambda picture, y: _affine(picture, (1, 0, 0, y, 1, 0)), partial(_signed, 0.3)),
    "TranslateXRel": (
        lambda picture, share: _affine(picture, (1, 0, share * picture.width, 0, 1, 0)),
        partial(_signed, 0.45),
    ),
    "TranslateYRel": (
        lambda picture, share: _affine(picture, (1, 0, 0, 0, 1, share * picture.height)),
        partial(_signed, 0.45),
    ),
}
