"""RandAugment as in timm and PySlowFast: the "increasing" list of operations, with Pillow's arithmetic.

Pillow and torch interpolate differently in affine transforms, so that torchvision's version gives other pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn

PROBABILITY = 0.5  # of applying a sampled operation
MAX_LEVEL = 10.0
FILL = (128, 128, 128)  # colour outside of the image
SOLARIZE_BELOW = 128  # brightness below which "SolarizeAdd" adds

SampledOperation = tuple[str, float | None]  # a name in OPERATIONS, and its argument if it takes one


class RandAugment(nn.Module):
    """Random image operations, the same for all frames of a view."""

    def __init__(self, num_ops: int, magnitude: float, spread: float) -> None:
        """Each of `num_ops` operations has its own level, normal around `magnitude`, clamped to 0 to 10."""
        super().__init__()
        self.num_ops, self.magnitude, self.spread = num_ops, magnitude, spread

    def forward(self, frames: Tensor) -> Tensor:
        """Transform uint8 (T, 3, H, W) -> uint8 (T, 3, H, W)."""
        return apply_operations(frames, self.sample_operations())

    def sample_operations(self) -> list[SampledOperation]:
        """Sample the operations of one view, with their arguments, from torch's global generator."""
        names = list(OPERATIONS)
        sampled: list[SampledOperation] = []
        for number in torch.randint(len(names), (self.num_ops,)).tolist():
            applied, negative, normal = float(torch.rand(())), float(torch.rand(())), float(torch.randn(()))
            if applied < PROBABILITY:
                level = min(max(self.magnitude + self.spread * normal, 0.0), MAX_LEVEL)
                sampled.append((names[number], argument(names[number], level, negative=negative > 0.5)))
        return sampled


def apply_operations(frames: Tensor, operations: Sequence[SampledOperation]) -> Tensor:
    """Apply operations in order to every frame. uint8 (T, 3, H, W) -> uint8 (T, 3, H, W)."""
    if not operations:
        return frames
    changed = []
    for frame in frames.permute(0, 2, 3, 1).numpy():
        image = Image.fromarray(np.ascontiguousarray(frame))
        for name, value in operations:
            operation = OPERATIONS[name][0]
            image = operation(image) if value is None else operation(image, value)
        changed.append(torch.from_numpy(np.array(image)))
    return torch.stack(changed).permute(0, 3, 1, 2)  # (T, 3, H, W)


def argument(name: str, level: float, *, negative: bool = False) -> float | None:
    """Return an operation's argument at a level from 0 to 10; `negative` reverses those with two directions."""
    _, at_level = OPERATIONS[name]
    return None if at_level is None else at_level(level / MAX_LEVEL, -1 if negative else 1)


def _solarize_add(image: Image.Image, added: float) -> Image.Image:
    table = [min(255, value + int(added)) if value < SOLARIZE_BELOW else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=FILL
    )


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor=FILL)


def _enhance(kind: type, image: Image.Image, factor: float) -> Image.Image:
    enhanced: Image.Image = kind(image).enhance(factor)
    return enhanced


def _signed(maximum: float, fraction: float, sign: int) -> float:
    return sign * fraction * maximum


def _factor(fraction: float, sign: int) -> float:
    return 1.0 + sign * fraction * 0.9


Operation = Callable[..., Image.Image]
AtLevel = Callable[[float, int], float]  # (fraction of the highest level, sign) -> argument
# timm's names, in its order
OPERATIONS: dict[str, tuple[Operation, AtLevel | None]] = {
    "AutoContrast": (ImageOps.autocontrast, None),
    "Equalize": (ImageOps.equalize, None),
    "Invert": (ImageOps.invert, None),
    "Rotate": (_rotate, partial(_signed, 30.0)),
    "PosterizeIncreasing": (ImageOps.posterize, lambda fraction, _: 4 - int(fraction * 4)),
    "SolarizeIncreasing": (ImageOps.solarize, lambda fraction, _: 256 - int(fraction * 256)),
    "SolarizeAdd": (_solarize_add, lambda fraction, _: int(fraction * 110)),
    "ColorIncreasing": (partial(_enhance, ImageEnhance.Color), _factor),
    "ContrastIncreasing": (partial(_enhance, ImageEnhance.Contrast), _factor),
    "BrightnessIncreasing": (partial(_enhance, ImageEnhance.Brightness), _factor),
    "SharpnessIncreasing": (partial(_enhance, ImageEnhance.Sharpness), _factor),
    "ShearX": (lambda image, x: _affine(image, (1, x, 0, 0, 1, 0)), partial(_signed, 0.3)),
    "ShearY": (lambda image, y: _affine(image, (1, 0, 0, y, 1, 0)), partial(_signed, 0.3)),
    "TranslateXRel": (
        lambda image, fraction: _affine(image, (1, 0, fraction * image.width, 0, 1, 0)),
        partial(_signed, 0.45),
    ),
    "TranslateYRel": (
        lambda image, fraction: _affine(image, (1, 0, 0, 0, 1, fraction * image.height)),
        partial(_signed, 0.45),
    ),
}
