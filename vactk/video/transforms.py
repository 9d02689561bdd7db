"""From decoded frames to the model's input, with torchvision's v2 transforms.

What is drawn at random is drawn once for all frames of a view, from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

import vactk.torchvision_ops  # noqa: F401, before torchvision

# isort: split
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from vactk.errors import VactkError, pick

BICUBIC = v2.InterpolationMode.BICUBIC  # as CLIP's own preprocessing
RANDAUGMENT_BINS = 31  # magnitudes 0 to 30


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """How frames are cropped and varied. Size, mean and standard deviation come from the backbone."""

    crop: str = "resized"  # training crop: "resized" (any area and shape) or "jitter" (resize, then crop)
    scale: tuple[float, float] = (0.5, 1.0)  # "resized": smallest and largest share of the area
    ratio: tuple[float, float] = (0.75, 4 / 3)  # "resized": smallest and largest width / height
    short_side: tuple[int, int] = (256, 320)  # "jitter": smallest and largest short side, in pixels
    flip: float = 0.5  # probability of a horizontal flip; 0 where left and right matter
    randaugment_ops: int = 0  # RandAugment operations per view, 0 for none
    randaugment_magnitude: int = 9  # their strength, 0 to 30
    # brightness, contrast, saturation, hue
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    erasing: float = 0.0  # probability of erasing a rectangle
    eval_crops: int = 1  # testing: 1 in the centre, or 3 or 4 along the longer side

    def __post_init__(self) -> None:
        pick(TRAIN_CROPS, self.crop, "training crop")
        _check(self.eval_crops in EVAL_CROPS, "eval_crops", self.eval_crops, "1, 3 or 4")
        _check(_ascends(0, *self.scale, 1), "scale", self.scale, "two ascending shares, above 0, up to 1")
        _check(_ascends(0, *self.ratio), "ratio", self.ratio, "two ascending numbers above 0")
        _check(_ascends(0, *self.short_side), "short_side", self.short_side, "two ascending numbers above 0")
        _check(0 <= self.flip <= 1, "flip", self.flip, "a probability")
        _check(0 <= self.erasing <= 1, "erasing", self.erasing, "a probability")
        _check(self.randaugment_ops >= 0, "randaugment_ops", self.randaugment_ops, "0 or more")
        magnitude = self.randaugment_magnitude
        _check(0 <= magnitude < RANDAUGMENT_BINS, "randaugment_magnitude", magnitude, "0 to 30")
        strengths = (
            len(self.color_jitter) == 4 and min(self.color_jitter) >= 0 and self.color_jitter[3] <= 0.5
        )
        _check(strengths, "color_jitter", self.color_jitter, "four strengths from 0, hue at most 0.5")


def train_transform(
    config: TransformConfig, size: int, mean: Sequence[float], std: Sequence[float]
) -> Callable[[Tensor], Tensor]:
    """The random transform of one view: uint8 (T, 3, H, W) -> float32 (T, 3, size, size), normalised."""
    steps: list[nn.Module] = [*TRAIN_CROPS[config.crop](config, size)]
    if config.flip:
        steps.append(v2.RandomHorizontalFlip(config.flip))
    if config.randaugment_ops:
        steps.append(v2.RandAugment(config.randaugment_ops, config.randaugment_magnitude, RANDAUGMENT_BINS))
    if any(config.color_jitter):
        steps.append(v2.ColorJitter(*config.color_jitter))
    steps += _normalise(mean, std)
    if config.erasing:
        steps.append(v2.RandomErasing(config.erasing))
    return v2.Compose(steps)


def eval_transform(
    config: TransformConfig, size: int, mean: Sequence[float], std: Sequence[float]
) -> Callable[[Tensor], Tensor]:
    """The fixed transform of one view: uint8 (T, 3, H, W) -> float32 (crops, T, 3, size, size), normalised.

    Crops lie along the longer side. Four of them are M2-CLIP's, at 0, 1/4, 1/2 and 1 of it: its published
    code tests on Kinetics with these and three views in time.
    """
    resize = v2.Resize(size, BICUBIC, antialias=True)
    return v2.Compose([resize, Crops(size, EVAL_CROPS[config.eval_crops]), *_normalise(mean, std)])


class Crops(nn.Module):
    """Square crops at given places along the longer side: 0 at its start, 1 at its end."""

    def __init__(self, size: int, places: Sequence[float]) -> None:
        super().__init__()
        self.size, self.places = size, tuple(places)

    def forward(self, frames: Tensor) -> Tensor:
        """(..., H, W) -> (crops, ..., size, size)"""
        height, width = frames.shape[-2:]
        corners = [_corner(height - self.size, width - self.size, place) for place in self.places]
        return torch.stack([F.crop(frames, *corner, self.size, self.size) for corner in corners])


class RandomShortSide(nn.Module):
    """Resizes so that the short side is drawn evenly from `smallest` to `largest` pixels."""

    def __init__(self, smallest: int, largest: int) -> None:
        super().__init__()
        self.smallest, self.largest = smallest, largest

    def forward(self, frames: Tensor) -> Tensor:
        """(..., H, W) -> (..., H', W')"""
        short_side = int(torch.randint(self.smallest, self.largest + 1, ()))
        return F.resize(frames, [short_side], BICUBIC, antialias=True)


def _corner(spare_height: int, spare_width: int, place: float) -> tuple[int, int]:
    """Top left corner; the shorter side is always centred, rounded as in CLIP's centre crop."""
    down, across = (place, 0.5) if spare_height > spare_width else (0.5, place)
    return round(spare_height * down), round(spare_width * across)


def _normalise(mean: Sequence[float], std: Sequence[float]) -> list[nn.Module]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std), inplace=True)]


def _resized_crop(config: TransformConfig, size: int) -> list[nn.Module]:
    return [v2.RandomResizedCrop(size, config.scale, config.ratio, BICUBIC, antialias=True)]


def _jitter_crop(config: TransformConfig, size: int) -> list[nn.Module]:
    _check(
        config.short_side[0] >= size, "short_side", config.short_side, f"at least the model's size, {size}"
    )
    return [RandomShortSide(*config.short_side), v2.RandomCrop(size)]


def _ascends(lowest: float, *values: float) -> bool:
    pairs = zip((lowest, *values), values, strict=False)
    return values[0] > lowest and all(before <= after for before, after in pairs)


def _check(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise VactkError(f"setting '{name}' is {value}, must be {wanted}")


TRAIN_CROPS: dict[str, Callable[[TransformConfig, int], list[nn.Module]]] = {
    "resized": _resized_crop,
    "jitter": _jitter_crop,
}
EVAL_CROPS: dict[int, tuple[float, ...]] = {1: (0.5,), 3: (0.0, 0.5, 1.0), 4: (0.0, 0.25, 0.5, 1.0)}
