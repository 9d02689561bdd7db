"""Which frames of a video make a view: arithmetic on frame numbers, without any reading.

Both functions return (V, T) frame numbers, sorted within a view. With a generator the positions are random,
as in training; without one they are fixed and the views are spread evenly, as in testing. A video shorter
than what is asked for repeats frames: segments repeat each frame about equally often, dense clips hold the
last frame.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")
