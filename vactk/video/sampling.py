"""Sampling of views: arithmetic on frame numbers, without decoding.

All functions return frame numbers (V, T), sorted within a view. With a generator they are random, as in training;
without one they are fixed, and views are evenly spaced, as in evaluation. A video shorter than a view repeats
frames: segments repeat each frame about equally often, dense views repeat the last frame.

`uniform_segments` and `dense_views` are vactk's own. The others take the frames that the published code of
Open-VCLIP and of M2-CLIP takes, rounding included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The times of frames by the container, in ticks of its time base."""

    stamps: Tensor  # (num_frames,) int64: presentation times, in decoding order
    rate: float  # mean frames per second
    rate_is_stated: bool = True  # by the header; False: the mean of the stamps
    stated_frames: int = 0  # frame count by the header, which may be wrong; 0: none
    stated_ticks: int = 0  # duration by the header; 0: none

    @property
    def num_frames(self) -> int:
        return self.stated_frames or len(self.stamps)

    @property
    def order(self) -> Tensor:
        """Return the frames sorted by their stamps, int64 (N,); of those with equal stamps, the last."""
        return by_stamp(self.stamps)

    def slice(self, first: int, stop: int) -> Clock:
        """Return the clock of frames [first, stop), as if they were a file of their own."""
        if (first, stop) == (0, len(self.stamps)):
            return self
        stamps, count = self.stamps[first:stop] - self.stamps[first:stop].min(), stop - first
        ticks = self.stated_ticks and max(1, self.stated_ticks * count // self.num_frames)
        return replace(self, stamps=stamps, stated_frames=count, stated_ticks=ticks)


def by_stamp(stamps: Tensor) -> Tensor:
    """Sort stamps (N,) -> their positions, int64 (up to N,); of equal stamps, the last one's."""
    order = stamps.argsort(stable=True)
    is_last = stamps[order].diff(append=stamps.max()[None] + 1) != 0
    return order[is_last]


def uniform_segments(
    num_frames: int, num_segments: int, *, num_views: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Sample one frame from each of T equal segments of the video -> int64 (V, T) in [0, num_frames).

    Frame i of a view is floor((i + u) * num_frames / T): u is random per frame in training, and (v + 1/2) / V in
    evaluation, so that one view takes the centres, and V views the centres of V * T segments.
    """
    _check_counts(num_frames=num_frames, num_segments=num_segments, num_views=num_views)
    segment = torch.arange(num_segments)
    if generator is None:
        view = torch.arange(num_views)[:, None]
        return (2 * (segment * num_views + view) + 1) * num_frames // (2 * num_views * num_segments)
    u = torch.rand(num_views, num_segments, dtype=torch.float64, generator=generator)
    indices = ((segment + u) * num_frames / num_segments).floor().long()  # (V, T)
    return indices.clamp(max=num_frames - 1)  # rounding can carry u just below 1 over the end


def dense_views(
    num_frames: int,
    view_frames: int,
    stride: float,
    *,
    num_views: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample T frames, `stride` frames apart -> int64 (V, T) in [0, num_frames).

    In training each view starts anywhere it fits. In evaluation one view is centred; several are evenly spaced, the
    first starting with the video and the last ending with it. A stride of `stride / target_fps * fps` covers the
    same time at every frame rate. Past the end, the last frame is repeated.
    """
    _check_counts(num_frames=num_frames, view_frames=view_frames, num_views=num_views)
    if not stride > 0:
        raise ValueError(f"stride must be above 0, got {stride}")
    offsets = (torch.arange(view_frames, dtype=torch.float64) * stride).floor().long()
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
    view_frames: int,
    stride: int,
    *,
    target_fps: float,
    num_views: int = 1,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Return the starts of Open-VCLIP's V views, in fractional frames.

    Where the container states a duration (mp4, avi), starts are multiples of rest / V, rest being the video's
    length beyond a view, so that no view ends with the video; where it does not (webm, mkv), the last one does. In
    training a view starts anywhere in the rest.
    """
    _check_counts(num_views=num_views)
    rest = max(clock.num_frames - _decoded_span(clock, view_frames, stride, target_fps), 0.0)
    if generator is not None:
        return (torch.rand(num_views, dtype=torch.float64, generator=generator) * rest).tolist()
    if clock.stated_ticks:
        return [view * rest / num_views for view in range(num_views)]
    if num_views == 1:
        return [float(rest // 2)]
    return [view * (rest // (num_views - 1)) for view in range(num_views)]


def openvclip_views(
    clock: Clock, view_frames: int, stride: int, starts: Sequence[float], *, target_fps: float
) -> Tensor:
    """Sample T frames of the views that begin at `starts`, in frames -> int64 (V, T) in [0, number of frames).

    A view lasts T strides at `target_fps`, and its frames are evenly spaced from its first to its last. Where the
    container states a duration, frames are chosen among those with stamps from the start to T - 1 strides later,
    and one more.
    """
    _check_counts(view_frames=view_frames, num_frames=len(clock.stamps))
    span = stride * view_frames / target_fps * clock.rate
    views = []
    for start in starts:
        begin, decoded = start, clock.order
        if clock.stated_ticks:
            begin = 0.0
            decoded = _decoded(clock, start, _decoded_span(clock, view_frames, stride, target_fps))
        chosen = torch.linspace(begin, begin + span - 1, view_frames).clamp(0, len(decoded) - 1).long()
        views.append(decoded[chosen])
    return torch.stack(views)


def _decoded_span(clock: Clock, view_frames: int, stride: int, target_fps: float) -> float:
    """Return the length of the segment decoded for a view, in frames."""
    if clock.stated_ticks:
        return float(math.ceil(stride * (view_frames - 1) / target_fps * clock.rate))
    return stride * view_frames / target_fps * clock.rate


def _decoded(clock: Clock, start: float, length: float) -> Tensor:
    """Return frames sorted by stamp, up to the first one after the span."""
    step = clock.stated_ticks / clock.num_frames
    first, last = int(start * step), int((start + length - 1) * step)
    late = (clock.stamps > last).nonzero().flatten()
    stop = int(late[0]) + 1 if len(late) else len(clock.stamps)
    found = (clock.stamps[:stop] >= first).nonzero().flatten()
    if not len(found):  # the header states more frames than exist
        found = clock.stamps.argmax()[None]
    return found[by_stamp(clock.stamps[found])]


def m2clip_segments(
    num_frames: int, num_segments: int, *, num_views: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Sample one frame from each of T equal segments, which share borders -> int64 (V, T) in [0, num_frames).

    The borders are round(i (N - 1) / T), halves to even. In training a segment's frames are equally likely, in
    evaluation all views take its middle, rounded down.
    """
    _check_counts(num_frames=num_frames, num_segments=num_segments, num_views=num_views)
    borders = torch.tensor([round(i * (num_frames - 1) / num_segments) for i in range(num_segments + 1)])
    if generator is None:
        return ((borders[:-1] + borders[1:]) // 2).expand(num_views, -1)
    u = torch.rand(num_views, num_segments, dtype=torch.float64, generator=generator)
    return borders[:-1] + (u * (borders[1:] - borders[:-1] + 1)).long()


def m2clip_views(
    num_frames: int,
    view_frames: int,
    stride: int,
    *,
    num_views: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample T frames, `stride` apart -> int64 (V, T) in [0, num_frames).

    In evaluation the first view starts with the video and the last one ends with it, halves rounded to even. Past
    the end of a short video the last frame is repeated, in training the last multiple of `stride`.
    """
    _check_counts(num_frames=num_frames, view_frames=view_frames, num_views=num_views)
    reach = stride * (view_frames - 1)
    offsets = torch.arange(view_frames) * stride
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
            raise ValueError(f"{name} must be at least 1, got {count}")
