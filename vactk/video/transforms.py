"""Preprocessing and augmentation of frames with torchvision's v2 transforms.

Random parameters are sampled once for all frames of a view, from torch's global generator.
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

LongSide = Callable[[int, int, int], int]  # (long side, short side, new short side) -> new long side


@dataclass(frozen=True)
class Scaling:
    """How frames are resized, and how crop positions are rounded in evaluation."""

    mode: v2.InterpolationMode
    antialias: bool  # with it, resized frames are rounded to 8 bits; without it, they stay float
    long_side: LongSide
    corner: Callable[[float], int]


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """Cropping and augmentation of frames. Size, mean and standard deviation come from the backbone."""

    crop: str = (
        # training crop: "resized" (random area and aspect), "jitter" (random resize, then crop) or "centre"
        "resized"
    )
    scale: tuple[float, float] = (0.5, 1.0)  # "resized": range of the area fraction
    ratio: tuple[float, float] = (0.75, 4 / 3)  # "resized": range of width / height
    short_side: tuple[int, int] = (256, 320)  # "jitter": range of the short side, in pixels
    # resizing: "clip" is bicubic and antialiased, as CLIP's preprocessing; "openvclip" is bilinear and "m2clip"
    # bicubic, both without antialiasing, as in their releases
    scaling: str = "clip"
    flip: float = 0.5  # probability of a horizontal flip; 0 where left and right differ in meaning
    randaugment_ops: int = 0  # RandAugment operations per view, half of which are applied; 0: none
    randaugment_magnitude: float = 9.0  # mean level of the operations, 0 to 10
    randaugment_spread: float = 0.5  # standard deviation of the level
    # maximum change of brightness, contrast, saturation, hue
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    erasing: float = 0.0  # probability of erasing a rectangle
    eval_crops: int = 1  # evaluation: 1 centre crop, or 3 or 4 along the longer side
    eval_short_side: int = 0  # evaluation: short side in pixels before cropping; 0: the model's input size

    def __post_init__(self) -> None:
        pick(TRAIN_CROPS, self.crop, "training crop")
        pick(SCALINGS, self.scaling, "scaling")
        _check(self.eval_crops in EVAL_CROPS, "eval_crops", self.eval_crops, "1, 3 or 4")
        _check(_ascends(0, *self.scale, 1), "scale", self.scale, "two ascending fractions, above 0, up to 1")
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
    """Return the random transform of a view: uint8 (T, 3, H, W) -> float32 (T, 3, size, size), normalised."""
    steps: list[nn.Module] = []
    if config.randaugment_ops:
        levels = config.randaugment_magnitude, config.randaugment_spread
        steps.append(RandAugment(config.randaugment_ops, *levels))
    scaling = SCALINGS[config.scaling]
    steps += [*_to_resizable(scaling), *TRAIN_CROPS[config.crop](config, scaling, size)]
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
    """Return the fixed transform of a view: uint8 (T, 3, H, W) -> float32 (crops, T, 3, size, size), normalised.

    Crops lie along the longer side. Four crops are M2-CLIP's, at 0, 1/4, 1/2 and 1 of it: its published code
    evaluates Kinetics with these and three temporal views.
    """
    scaling = SCALINGS[config.scaling]
    short_side = config.eval_short_side or size
    _check(short_side >= size, "eval_short_side", short_side, f"at least the model's size, {size}")
    crops = Crops(scaling, short_side, size, EVAL_CROPS[config.eval_crops])
    return v2.Compose([*_to_resizable(scaling), crops, *_normalise(mean, std)])


class Crops(nn.Module):
    """Resizes the short side, then crops squares at positions along the longer one: 0 its start, 1 its end."""

    def __init__(self, scaling: Scaling, short_side: int, size: int, positions: Sequence[float]) -> None:
        super().__init__()
        self.scaling, self.short_side, self.size, self.positions = scaling, short_side, size, tuple(positions)

    def forward(self, frames: Tensor) -> Tensor:
        """Crop (..., H, W) -> (crops, ..., size, size)."""
        frames = scale(frames, self.scaling, self.short_side, self.scaling.long_side)
        height, width = frames.shape[-2:]
        corners = [
            self._corner(height - self.size, width - self.size, position) for position in self.positions
        ]
        return torch.stack([F.crop(frames, *corner, self.size, self.size) for corner in corners])

    def _corner(self, spare_height: int, spare_width: int, position: float) -> tuple[int, int]:
        """Return the top left corner; the shorter side is always centred."""
        down, across = (position, 0.5) if spare_height > spare_width else (0.5, position)
        return self.scaling.corner(spare_height * down), self.scaling.corner(spare_width * across)


class JitterCrop(nn.Module):
    """Resizes to a random short side, then crops a random square, as PySlowFast does."""

    def __init__(self, scaling: Scaling, short_side: tuple[int, int], size: int) -> None:
        super().__init__()
        self.scaling, self.short_side, self.size = scaling, short_side, size

    def forward(self, frames: Tensor) -> Tensor:
        """Crop (..., H, W) -> (..., size, size)."""
        smallest, largest = self.short_side
        short_side = smallest + (largest - smallest) * float(torch.rand((), dtype=torch.float64))
        frames = scale(frames, self.scaling, round(short_side), ratio_first)
        return F.crop(frames, *(self._start(side) for side in frames.shape[-2:]), self.size, self.size)

    def _start(self, side: int) -> int:
        """Return a random start; never the last possible pixel, as in the released code."""
        return int(torch.randint(max(1, side - self.size), ()))


def scale(frames: Tensor, scaling: Scaling, short_side: int, rule: LongSide) -> Tensor:
    """Resize frames to a short side. (..., H, W) -> (..., H', W')."""
    height, width = frames.shape[-2:]
    if min(height, width) == short_side:
        return frames
    long_side = max(1, rule(max(height, width), min(height, width), short_side))
    new = (short_side, long_side) if height <= width else (long_side, short_side)
    return F.resize(frames, list(new), scaling.mode, antialias=scaling.antialias)


def ratio_first(long: int, short: int, new: int) -> int:
    """Return the long side as PySlowFast computes it, whose rounding can make it a pixel shorter."""
    return math.floor(long / short * new)


def ratio_last(long: int, short: int, new: int) -> int:
    """Return the long side, rounded down exactly."""
    return long * new // short


def _to_resizable(scaling: Scaling) -> list[nn.Module]:
    """Return the conversion of uint8 frames before resizing: to float where resizing does not round."""
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


def _centre_crop(config: TransformConfig, scaling: Scaling, size: int) -> list[nn.Module]:
    return [Crops(scaling, size, size, EVAL_CROPS[1]), nn.Flatten(0, 1)]


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
    "centre": _centre_crop,
}
EVAL_CROPS: dict[int, tuple[float, ...]] = {1: (0.5,), 3: (0.0, 0.5, 1.0), 4: (0.0, 0.25, 0.5, 1.0)}
