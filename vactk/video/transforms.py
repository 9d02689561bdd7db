"""From decoded frames to the model's input, with torchvision's v2 transforms.

What is drawn at random is drawn once for all frames of a view, from torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

import vactk.torchvision_ops  # noqa: F401, before torchvision

# isort: split
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from vactk.errors import VactkError, pick
from vactk.video.randaugment import MAX_LEVEL, RandAugment

LongSide = Callable[[int, int, int], int]  # of a scaled picture, by its long side, its short one, the new one


@dataclass(frozen=True)
class Scaling:
    """How pictures are scaled, and how the places of crops are rounded in testing."""

    mode: v2.InterpolationMode
    antialias: bool  # with it, scaled pictures are rounded to 8 bits; without it, to nothing
    long_side: LongSide
    corner: Callable[[float], int]


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """How frames are cropped and varied. Size, mean and standard deviation come from the backbone."""

    crop: str = "resized"  # training crop: "resized" (any area and shape) or "jitter" (resize, then crop)
    scale: tuple[float, float] = (0.5, 1.0)  # "resized": smallest and largest share of the area
    ratio: tuple[float, float] = (0.75, 4 / 3)  # "resized": smallest and largest width / height
    short_side: tuple[int, int] = (256, 320)  # "jitter": smallest and largest short side, in pixels
    # "clip": bicubic, antialiased, as CLIP's own preprocessing; "openvclip": bilinear and "m2clip": bicubic, both
    # without antialias, as their releases train and test
    scaling: str = "clip"
    flip: float = 0.5  # probability of a horizontal flip; 0 where left and right matter
    randaugment_ops: int = 0  # RandAugment operations drawn for a view, of which half are applied; 0 for none
    randaugment_magnitude: float = 9.0  # their mean strength, 0 to 10
    randaugment_spread: float = 0.5  # and its standard deviation
    # brightness, contrast, saturation, hue
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    erasing: float = 0.0  # probability of erasing a rectangle
    eval_crops: int = 1  # testing: 1 in the centre, or 3 or 4 along the longer side
    eval_short_side: int = 0  # testing: pixels of the short side before cropping; 0: the model's size

    def __post_init__(self) -> None:
        pick(TRAIN_CROPS, self.crop, "training crop")
        pick(SCALINGS, self.scaling, "scaling")
        _check(self.eval_crops in EVAL_CROPS, "eval_crops", self.eval_crops, "1, 3 or 4")
        _check(_ascends(0, *self.scale, 1), "scale", self.scale, "two ascending shares, above 0, up to 1")
        _check(_ascends(0, *self.ratio), "ratio", self.ratio, "two ascending numbers above 0")
        _check(_ascends(0, *self.short_side), "short_side", self.short_side, "two ascending numbers above 0")
        _check(self.eval_short_side >= 0, "eval_short_side", self.eval_short_side, "0 or more")
        _check(0 <= self.flip <= 1, "flip", self.flip, "a probability")
        _check(0 <= self.erasing <= 1, "erasing", self.erasing, "a probability")
        _check(self.randaugment_ops >= 0, "randaugment_ops", self.randaugment_ops, "0 or more")
        magnitude = self.randaugment_magnitude
        _check(0 <= magnitude <= MAX_LEVEL, "randaugment_magnitude", magnitude, "0 to 10")
        _check(self.randaugment_spread >= 0, "randaugment_spread", self.randaugment_spread, "0 or more")
        strengths = (
            len(self.color_jitter) == 4 and min(self.color_jitter) >= 0 and self.color_jitter[3] <= 0.5
        )
        _check(strengths, "color_jitter", self.color_jitter, "four strengths from 0, hue at most 0.5")


def train_transform(
    config: TransformConfig, size: int, mean: Sequence[float], std: Sequence[float]
) -> Callable[[Tensor], Tensor]:
    """The random transform of one view: uint8 (T, 3, H, W) -> float32 (T, 3, size, size), normalised."""
    steps: list[nn.Module] = []
    if config.randaugment_ops:
        varied = (config.randaugment_ops, config.randaugment_magnitude, config.randaugment_spread)
        steps.append(RandAugment(*varied))
    scaling = SCALINGS[config.scaling]
    steps += [*_as_scaled(scaling), *TRAIN_CROPS[config.crop](config, scaling, size)]
    if config.flip:
        steps.append(v2.RandomHorizontalFlip(config.flip))
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
    scaling = SCALINGS[config.scaling]
    short_side = config.eval_short_side or size
    _check(short_side >= size, "eval_short_side", short_side, f"at least the model's size, {size}")
    crops = Crops(scaling, short_side, size, EVAL_CROPS[config.eval_crops])
    return v2.Compose([*_as_scaled(scaling), crops, *_normalise(mean, std)])


class Crops(nn.Module):
    """Scales the short side, then cuts out squares at places along the longer one: 0 its start, 1 its end."""

    def __init__(self, scaling: Scaling, short_side: int, size: int, places: Sequence[float]) -> None:
        super().__init__()
        self.scaling, self.short_side, self.size, self.places = scaling, short_side, size, tuple(places)

    def forward(self, frames: Tensor) -> Tensor:
        """(..., H, W) -> (crops, ..., size, size)"""
        frames = scale(frames, self.scaling, self.short_side, self.scaling.long_side)
        height, width = frames.shape[-2:]
        corners = [self._corner(height - self.size, width - self.size, place) for place in self.places]
        return torch.stack([F.crop(frames, *corner, self.size, self.size) for corner in corners])

    def _corner(self, spare_height: int, spare_width: int, place: float) -> tuple[int, int]:
        """Top left corner; the shorter side is always centred."""
        down, across = (place, 0.5) if spare_height > spare_width else (0.5, place)
        return self.scaling.corner(spare_height * down), self.scaling.corner(spare_width * across)


class JitterCrop(nn.Module):
    """Scales to a random short side, then cuts out a random square, as PySlowFast does."""

    def __init__(self, scaling: Scaling, short_side: tuple[int, int], size: int) -> None:
        super().__init__()
        self.scaling, self.short_side, self.size = scaling, short_side, size

    def forward(self, frames: Tensor) -> Tensor:
        """(..., H, W) -> (..., size, size)"""
        smallest, largest = self.short_side
        drawn = smallest + (largest - smallest) * float(torch.rand((), dtype=torch.float64))
        frames = scale(frames, self.scaling, round(drawn), ratio_first)
        return F.crop(frames, *(self._start(side) for side in frames.shape[-2:]), self.size, self.size)

    def _start(self, side: int) -> int:
        """Anywhere but at the last possible pixel, which the released code never draws."""
        return int(torch.randint(max(1, side - self.size), ()))


def scale(frames: Tensor, scaling: Scaling, short_side: int, rule: LongSide) -> Tensor:
    """Pictures with their shorter side scaled. (..., H, W) -> (..., H', W')"""
    height, width = frames.shape[-2:]
    if min(height, width) == short_side:
        return frames
    long_side = max(1, rule(max(height, width), min(height, width), short_side))
    new = (short_side, long_side) if height <= width else (long_side, short_side)
    return F.resize(frames, list(new), scaling.mode, antialias=scaling.antialias)


def ratio_first(long: int, short: int, new: int) -> int:
    """The long side as PySlowFast computes it, whose rounding can make it one shorter."""
    return math.floor(long / short * new)


def ratio_last(long: int, short: int, new: int) -> int:
    """The long side rounded down exactly."""
    return long * new // short


def _as_scaled(scaling: Scaling) -> list[nn.Module]:
    """8-bit pictures as they are scaled: as numbers from 0 to 1 where nothing is to be rounded."""
    return [] if scaling.antialias else [v2.ToDtype(torch.float32, scale=True)]


def _normalise(mean: Sequence[float], std: Sequence[float]) -> list[nn.Module]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std), inplace=True)]


def _resized_crop(config: TransformConfig, scaling: Scaling, size: int) -> list[nn.Module]:
    return [v2.RandomResizedCrop(size, config.scale, config.ratio, scaling.mode, antialias=scaling.antialias)]


def _jitter_crop(config: TransformConfig, scaling: Scaling, size: int) -> list[nn.Module]:
    _check(
        config.short_side[0] >= size, "short_side", config.short_side, f"at least the model's size, {size}"
    )
    return [JitterCrop(scaling, config.short_side, size)]


def _ascends(lowest: float, *values: float) -> bool:
    pairs = zip((lowest, *values), values, strict=False)
    return values[0] > lowest and all(before <= after for before, after in pairs)


def _check(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise VactkError(f"setting '{name}' is {value}, must be {wanted}")


BICUBIC, BILINEAR = v2.InterpolationMode.BICUBIC, v2.InterpolationMode.BILINEAR
SCALINGS = {
    "clip": Scaling(BICUBIC, True, ratio_last, round),
    "openvclip": Scaling(BILINEAR, False, ratio_first, math.ceil),
    "m2clip": Scaling(BICUBIC, False, ratio_last, math.floor),
}
TRAIN_CROPS: dict[str, Callable[[TransformConfig, Scaling, int], list[nn.Module]]] = {
    "resized": _resized_crop,
    "jitter": _jitter_crop,
}
EVAL_CROPS: dict[int, tuple[float, ...]] = {1: (0.5,), 3: (0.0, 0.5, 1.0), 4: (0.0, 0.25, 0.5, 1.0)}
