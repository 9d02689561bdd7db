"""Which frames of a video make a view: arithmetic on frame numbers, without any reading.

All functions return (V, T) frame numbers, sorted within a view. With a generator the positions are random,
as in training; without one they are fixed and the views are spread evenly, as in testing. A video shorter
than what is asked for repeats frames: segments repeat each frame about equally often, dense clips hold the
last frame.

`uniform_segments` and `dense_clips` are this package's own. The others take the frames that the published
code of Open-VCLIP and of M2-CLIP takes, rounding and all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Clock:
    """What a container says of the times of its frames, in ticks of its time base."""

    stamps: Tensor  # (num_frames,) int64: when each frame is shown, in the order in which frames are decoded
    rate: float  # frames per second on average
    rate_is_stated: bool = True  # by the header; False: it is the mean over the stamps
    stated_frames: int = 0  # by the header, which may be wrong; 0: it does not say
    stated_ticks: int = 0  # how long the header says that the stream is; 0: it does not say

    @property
    def num_frames(self) -> int:
        return self.stated_frames or len(self.stamps)

    @property
    def order(self) -> Tensor:
        """(N,) frames by their stamps; of several with the same one, the last."""
        return by_stamp(self.stamps)

    def part(self, first: int, stop: int) -> Clock:
        """The clock of some of the frames, as if they were a file of their own."""
        if (first, stop) == (0, len(self.stamps)):
            return self
        stamps, count = self.stamps[first:stop] - self.stamps[first:stop].min(), stop - first
        ticks = self.stated_ticks and max(1, self.stated_ticks * count // self.num_frames)
        return replace(self, stamps=stamps, stated_frames=count, stated_ticks=ticks)


def by_stamp(stamps: Tensor) -> Tensor:
    """Positions of ascending stamps (N,), of equal ones the last -> (up to N,) int64"""
    order = stamps.argsort(stable=True)
    is_last = stamps[order].diff(append=stamps.max()[None] + 1) != 0
    return order[is_last]


def uniform_segments(
    num_frames: int, num_segments: int, *, num_views: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """One frame from each of T equal segments of the video -> int64 (V, T) in [0, num_frames).

    Frame i of a view is floor((i + u) * num_frames / T): in training u is drawn for each frame, in testing it
    is (v + 1/2) / V, so that one view takes the centres, and V views share out the centres of V * T segments.
    """
    _check_counts(num_frames=num_frames, num_segments=num_segments, num_views=num_views)
    segment = torch.arange(num_segments)
    if generator is None:
        view = torch.arange(num_views)[:, None]
        return (2 * (segment * num_views + view) + 1) * num_frames // (2 * num_views * num_segments)
    u = torch.rand(num_views, num_segments, dtype=torch.float64, generator=generator)
    indices = ((segment + u) * num_frames / num_segments).floor().long()  # (V, T)
    return indices.clamp(max=num_frames - 1)  # rounding can carry u just below 1 over the end


def dense_clips(
    num_frames: int,
    clip_frames: int,
    stride: float,
    *,
    num_views: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """T frames in a row, `stride` frames apart -> int64 (V, T) in [0, num_frames).

    In training each view starts anywhere it fits. In testing one view is centred; several start at even
    distances, the first with the video and the last ending with it. A stride of `wanted / target_fps * fps`
    covers the same time at every frame rate. Past the end, the last frame is repeated.
    """
    _check_counts(num_frames=num_frames, clip_frames=clip_frames, num_views=num_views)
    if not stride > 0:
        raise ValueError(f"stride must be above 0, not {stride}")
    offsets = (torch.arange(clip_frames, dtype=torch.float64) * stride).floor().long()
    slack = max(0, num_frames - 1 - int(offsets[-1]))
    if generator is not None:
        starts = torch.randint(slack + 1, (num_views,), generator=generator)
    elif num_views == 1:
        starts = torch.tensor([slack // 2])
    else:
        gaps = num_views - 1
        starts = (2 * slack * torch.arange(num_views) + gaps) // (2 * gaps)  # rounded, halves up
    return (starts[:, None] + offsets).clamp(max=num_frames - 1)


def openvclip_starts(
    clock: Clock,
    clip_frames: int,
    stride: int,
    *,
    target_fps: float,
    num_views: int = 1,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Where Open-VCLIP's views begin, in frames: V fractions.

    Where the container states a duration (mp4, avi), V views share out what is left of the video beyond a view,
    and none ends with it; where it does not (webm, mkv), the last one does. In training a view starts anywhere
    in that rest.
    """
    _check_counts(num_views=num_views)
    rest = max(clock.num_frames - _decoded_span(clock, clip_frames, stride, target_fps), 0.0)
    if generator is not None:
        return (torch.rand(num_views, dtype=torch.float64, generator=generator) * rest).tolist()
    if clock.stated_ticks:
        return [view * rest / num_views for view in range(num_views)]
    if num_views == 1:
        return [float(rest // 2)]
    return [view * (rest // (num_views - 1)) for view in range(num_views)]


def openvclip_clips(
    clock: Clock, clip_frames: int, stride: int, starts: Sequence[float], *, target_fps: float
) -> Tensor:
    """T frames of each of the views that begin at `starts`, in frames -> int64 (V, T) in [0, number of frames).

    A view lasts as long as T strides at `target_fps`, and its frames are evenly spaced from its first to its
    last. Where the container states a duration, only frames with stamps from its start to T - 1 strides later
    are there to choose from, and one more.
    """
    _check_counts(clip_frames=clip_frames, num_frames=len(clock.stamps))
    span = stride * clip_frames / target_fps * clock.rate
    views = []
    for start in starts:
        begin, decoded = start, clock.order
        if clock.stated_ticks:
            begin = 0.0
            decoded = _decoded(clock, start, _decoded_span(clock, clip_frames, stride, target_fps))
        chosen = torch.linspace(begin, begin + span - 1, clip_frames).clamp(0, len(decoded) - 1).long()
        views.append(decoded[chosen])
    return torch.stack(views)


def _decoded_span(clock: Clock, clip_frames: int, stride: int, target_fps: float) -> float:
    """How much of the video is decoded for a view, in frames."""
    if clock.stated_ticks:
        return float(math.ceil(stride * (clip_frames - 1) / target_fps * clock.rate))
    return stride * clip_frames / target_fps * clock.rate


def _decoded(clock: Clock, start: float, length: float) -> Tensor:
    """Frames by their stamps, in the order of these, up to the first one that comes after the span."""
    step = clock.stated_ticks / clock.num_frames
    first, last = int(start * step), int((start + length - 1) * step)
    late = (clock.stamps > last).nonzero().flatten()
    stop = int(late[0]) + 1 if len(late) else len(clock.stamps)
    found = (clock.stamps[:stop] >= first).nonzero().flatten()
    if not len(found):  # the header promises more than there is
        found = clock.stamps.argmax()[None]
    return found[by_stamp(clock.stamps[found])]


def m2clip_segments(
    num_frames: int, num_segments: int, *, num_views: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """One frame from each of T equal segments, which share their borders -> int64 (V, T) in [0, num_frames).

    The borders are round(i (N - 1) / T), halves to even. In training every frame of a segment is as likely, in
    testing all views are its middle, rounded down.
    """
    _check_counts(num_frames=num_frames, num_segments=num_segments, num_views=num_views)
    borders = torch.tensor([round(i * (num_frames - 1) / num_segments) for i in range(num_segments + 1)])
    if generator is None:
        return ((borders[:-1] + borders[1:]) // 2).expand(num_views, -1)
    u = torch.rand(num_views, num_segments, dtype=torch.float64, generator=generator)
    return borders[:-1] + (u * (borders[1:] - borders[:-1] + 1)).long()


def m2clip_clips(
    num_frames: int,
    clip_frames: int,
    stride: int,
    *,
    num_views: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """T frames, `stride` apart -> int64 (V, T) in [0, num_frames).

    In testing the first view starts with the video and the last one ends with it, halves rounded to even. Past
    the end of a short video the last frame is repeated, in training the last one that was `stride` after another.
    """
    _check_counts(num_frames=num_frames, clip_frames=clip_frames, num_views=num_views)
    reach = stride * (clip_frames - 1)
    offsets = torch.arange(clip_frames) * stride
    if generator is None:
        slack = max(0, num_frames - reach - 1)
        gaps = num_views - 1
        starts = [round(k * slack / gaps) for k in range(num_views)] if gaps else [slack // 2]
        return (torch.tensor(starts)[:, None] + offsets).clamp(max=num_frames - 1)
    if num_frames > reach + 1:
        return torch.randint(num_frames - reach, (num_views, 1), generator=generator) + offsets
    return offsets.clamp(max=(num_frames - 1) // stride * stride).expand(num_views, -1)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")
