"""Settings of frame sampling, preprocessing and loading."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from vactk import config as settings
from vactk.data.worker_pool import usable_processors
from vactk.errors import VactkError
from vactk.video.reader import Timeline
from vactk.video.sampling import (
    dense_views,
    m2clip_segments,
    m2clip_views,
    openvclip_starts,
    openvclip_views,
    uniform_segments,
)
from vactk.video.transforms import TransformConfig

MAX_FRAMES = 4096  # of one video: 2.3 GiB at 224 pixels

Sampler = Callable[[Timeline], Tensor]


class Sampling(Protocol):
    """Chooses the frames of views: a dataclass whose fields are its settings, listed in SAMPLING."""

    def span(self, timeline: Timeline, num_frames: int) -> float:
        """Return the number of frames that a view spans; a shorter video repeats frames."""
        ...

    def indices(self, timeline: Timeline, num_frames: int, views: int, *, train: bool) -> Tensor:
        """Return frame numbers, int64 (V, T): random with `train`, else fixed."""
        ...


@dataclass(frozen=True, kw_only=True)
class UniformSampling:
    """One frame from each of T equal segments: a random one in training, the centre in evaluation."""

    def span(self, timeline: Timeline, num_frames: int) -> float:
        return num_frames

    def indices(self, timeline: Timeline, num_frames: int, views: int, *, train: bool) -> Tensor:
        generator = torch.default_generator if train else None
        return uniform_segments(timeline.num_frames, num_frames, num_views=views, generator=generator)


@dataclass(frozen=True, kw_only=True)
class DenseSampling:
    """Frames at a fixed stride: from a random start in training, from evenly spaced starts in evaluation."""

    stride: int = 16  # frames between sampled frames; Open-VCLIP's value

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise VactkError(f"stride must be at least 1, got {self.stride}")

    def span(self, timeline: Timeline, num_frames: int) -> float:
        return self.stride * (num_frames - 1) + 1

    def indices(self, timeline: Timeline, num_frames: int, views: int, *, train: bool) -> Tensor:
        generator = torch.default_generator if train else None
        return dense_views(timeline.num_frames, num_frames, self.stride, num_views=views, generator=generator)


@dataclass(frozen=True, kw_only=True)
class OpenVCLIPSampling:
    """The frames that Open-VCLIP's release takes, computed from the container's time stamps and duration."""

    stride: int = 16  # frames between sampled frames, counted at `fps`
    fps: float = 30.0  # frames per second in which the stride is counted
    # where several views start. "container": as the container's stated duration implies; "spread": from end to end;
    # "release": as the released scripts do for the dataset, "spread" for HMDB51 and "container" otherwise
    starts: Literal["release", "container", "spread"] = "release"

    def __post_init__(self) -> None:
        if self.stride < 1 or self.fps <= 0:
            raise VactkError(f"stride must be at least 1 and fps above 0, got {self.stride} and {self.fps}")

    def span(self, timeline: Timeline, num_frames: int) -> float:
        return self.stride * (num_frames - 1) / self.fps * timeline.clock.rate

    def indices(self, timeline: Timeline, num_frames: int, views: int, *, train: bool) -> Tensor:
        generator = torch.default_generator if train else None
        clock = timeline.clock
        if self.starts == "spread":
            clock = dataclasses.replace(clock, stated_ticks=0)
        starts = openvclip_starts(
            clock, num_frames, self.stride, target_fps=self.fps, num_views=views, generator=generator
        )
        return openvclip_views(clock, num_frames, self.stride, starts, target_fps=self.fps)


@dataclass(frozen=True, kw_only=True)
class M2CLIPSampling:
    """The frames that M2-CLIP's release takes."""

    stride: int = 16  # frames between sampled frames; 0: one frame from each of T equal segments

    def __post_init__(self) -> None:
        if self.stride < 0:
            raise VactkError(f"stride must be at least 0, got {self.stride}")

    def span(self, timeline: Timeline, num_frames: int) -> float:
        return self.stride * (num_frames - 1) + 1 if self.stride else num_frames

    def indices(self, timeline: Timeline, num_frames: int, views: int, *, train: bool) -> Tensor:
        generator = torch.default_generator if train else None
        order = timeline.clock.order
        if self.stride:
            found = m2clip_views(len(order), num_frames, self.stride, num_views=views, generator=generator)
        else:
            found = m2clip_segments(len(order), num_frames, num_views=views, generator=generator)
        return order[found]


SAMPLING = {
    "uniform": UniformSampling,
    "dense": DenseSampling,
    "openvclip": OpenVCLIPSampling,
    "m2clip": M2CLIPSampling,
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Frame sampling, preprocessing and loading."""

    num_frames: int = 8  # frames per view
    views: int = 1  # temporal views per video in evaluation; training takes one
    view_mean: Literal["probabilities", "logits"] = "probabilities"  # averaged over views and crops
    sampling: Sampling = field(default_factory=UniformSampling, metadata=settings.table(SAMPLING, "sampling"))
    transform: TransformConfig = field(default_factory=TransformConfig)
    decoder: Literal["auto", "decord", "pyav"] = "auto"
    workers: int = -1  # data-loading worker processes; -1: one less than the CPU count, at most 8
    cache: str = ""  # folder written by `vactk data cache`, read in training only
    exclude: str = ""  # file of videos to leave out of training, as written by `vactk data check`
    timeout_s: float = 120.0  # seconds after which reading a video is given up; needs workers

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.views < 1:
            raise VactkError(
                f"num_frames and views must be at least 1, got {self.num_frames} and {self.views}"
            )
        if self.num_frames * self.views > MAX_FRAMES:
            raise VactkError(
                f"num_frames x views must be at most {MAX_FRAMES:,}, which are in memory at once, got "
                f"{self.num_frames:,} x {self.views:,}: see less of each video, such as --frames 8"
            )
        if self.cache and not isinstance(self.sampling, UniformSampling):
            raise VactkError(
                "data.cache holds evenly spaced frames and works with data.sampling=uniform only"
            )
        if self.timeout_s <= 0:
            raise VactkError(f"timeout_s must be above 0, got {self.timeout_s}")

    @property
    def num_workers(self) -> int:
        """Return `workers`, with -1 resolved for this machine."""
        return self.workers if self.workers >= 0 else max(1, min(8, usable_processors() - 1))


class ImageSpec(NamedTuple):
    """Size and normalisation of the frames that a backbone takes."""

    size: int  # pixels, height and width
    mean: tuple[float, ...]
    std: tuple[float, ...]
