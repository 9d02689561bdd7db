"""Settings of how videos become model inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vactk import config as settings
from vactk.data.worker_pool import usable_processors
from vactk.errors import VactkError
from vactk.video.reader import Timeline
from vactk.video.sampling import (
    dense_clips,
    m2clip_clips,
    m2clip_segments,
    openvclip_clips,
    openvclip_starts,
    uniform_segments,
)
from vactk.video.transforms import TransformConfig

Sampler = Callable[[Timeline], Tensor]


@dataclass(frozen=True, kw_only=True)
class UniformSampling:
    """One frame from each of equal segments: random within it in training, its centre in testing."""

    def span(self, timeline: Timeline, num_frames: int) -> float:
        """How many frames of a video a view needs, if none is to be repeated."""
        return num_frames

    def indices(self, timeline: Timeline, num_frames: int, views: int, *, train: bool) -> Tensor:
        """Frame numbers (V, T)."""
        generator = torch.default_generator if train else None
        return uniform_segments(timeline.num_frames, num_frames, num_views=views, generator=generator)


@dataclass(frozen=True, kw_only=True)
class DenseSampling:
    """Frames in a row: from a random start in training, evenly spread starts in testing."""

    stride: int = 16  # frames from one to the next; Open-VCLIP's value

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise VactkError(f"stride must be at least 1, got {self.stride}")

    def span(self, timeline: Timeline, num_frames: int) -> float:
        """How many frames of a video a view needs, if none is to be repeated."""
        return self.stride * (num_frames - 1) + 1

    def indices(self, timeline: Timeline, num_frames: int, views: int, *, train: bool) -> Tensor:
        """Frame numbers (V, T)."""
        generator = torch.default_generator if train else None
        return dense_clips(timeline.num_frames, num_frames, self.stride, num_views=views, generator=generator)


@dataclass(frozen=True, kw_only=True)
class OpenVCLIPSampling:
    """The frames that Open-VCLIP's release takes, by what the container says of its time."""

    stride: int = 16  # frames from one to the next in a video of `fps`
    fps: float = 30.0  # frames per second that strides are counted in
    # where several views start: by whether the container states a duration; spread from end to end, as where it
    # does not; or as the released scripts for the dataset have it, which spread HMDB51's
    starts: Literal["release", "container", "spread"] = "release"

    def __post_init__(self) -> None:
        if self.stride < 1 or self.fps <= 0:
            raise VactkError(f"stride must be at least 1 and fps above 0, got {self.stride} and {self.fps}")

    def span(self, timeline: Timeline, num_frames: int) -> float:
        """How many frames of a video a view needs, if none is to be repeated."""
        return self.stride * (num_frames - 1) / self.fps * timeline.clock.rate

    def indices(self, timeline: Timeline, num_frames: int, views: int, *, train: bool) -> Tensor:
        """Frame numbers (V, T)."""
        generator = torch.default_generator if train else None
        clock = timeline.clock
        if self.starts == "spread":
            clock = dataclasses.replace(clock, stated_ticks=0)
        starts = openvclip_starts(
            clock, num_frames, self.stride, target_fps=self.fps, num_views=views, generator=generator
        )
        return openvclip_clips(clock, num_frames, self.stride, starts, target_fps=self.fps)


@dataclass(frozen=True, kw_only=True)
class M2CLIPSampling:
    """The frames that M2-CLIP's release takes."""

    stride: int = 16  # frames from one to the next; 0: one of each of equal segments

    def __post_init__(self) -> None:
        if self.stride < 0:
            raise VactkError(f"stride must be at least 0, got {self.stride}")

    def span(self, timeline: Timeline, num_frames: int) -> float:
        """How many frames of a video a view needs, if none is to be repeated."""
        return self.stride * (num_frames - 1) + 1 if self.stride else num_frames

    def indices(self, timeline: Timeline, num_frames: int, views: int, *, train: bool) -> Tensor:
        """Frame numbers (V, T)."""
        generator = torch.default_generator if train else None
        order = timeline.clock.order
        if self.stride:
            found = m2clip_clips(len(order), num_frames, self.stride, num_views=views, generator=generator)
        else:
            found = m2clip_segments(len(order), num_frames, num_views=views, generator=generator)
        return order[found]


Sampling = UniformSampling | DenseSampling | OpenVCLIPSampling | M2CLIPSampling
SAMPLING = {
    "uniform": UniformSampling,
    "dense": DenseSampling,
    "openvclip": OpenVCLIPSampling,
    "m2clip": M2CLIPSampling,
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How videos become frames."""

    num_frames: int = 8  # frames in a view
    views: int = 1  # temporal views of a video in testing; training takes one
    view_mean: Literal["probabilities", "logits"] = "probabilities"  # of views and crops, what is averaged
    sampling: Sampling = field(default_factory=UniformSampling, metadata=settings.table(SAMPLING, "sampling"))
    transform: TransformConfig = field(default_factory=TransformConfig)
    decoder: Literal["auto", "decord", "pyav"] = "auto"
    workers: int = -1  # processes that read videos; -1: one less than the processors, 8 at most
    cache: str = ""  # folder made by `vactk data cache`: training reads from it, testing never
    exclude: str = ""  # list of videos that training leaves out, as `vactk data check` writes it
    timeout_s: float = 120.0  # after so long the reading of a video is given up; needs workers

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.views < 1:
            raise VactkError(
                f"num_frames and views must be at least 1, got {self.num_frames} and {self.views}"
            )

        if self.cache and not isinstance(self.sampling, UniformSampling):
            raise VactkError(
                "data.cache keeps evenly spread frames: it goes with data.sampling=uniform alone"
            )
        if self.timeout_s <= 0:
            raise VactkError(f"timeout_s must be above 0, got {self.timeout_s}")

    @property
    def num_workers(self) -> int:
        """`workers`, with -1 worked out for this machine."""
        return self.workers if self.workers >= 0 else max(1, min(8, usable_processors() - 1))


class ImageSpec(NamedTuple):
    """What a backbone expects of a frame."""

    size: int  # pixels, height and width
    mean: tuple[float, ...]
    std: tuple[float, ...]
