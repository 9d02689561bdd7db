"""Classify videos with an ONNX classifier from `vactk export`: ONNX Runtime, NumPy and PyAV, no torch.

    vactk export --checkpoint runs/first --labels "star growing,star moving left" --output exported
    python examples/run_exported.py exported/classifier.onnx clip.mp4

The labels are those of `vactk zeroshot`: the file's metadata say which frames to take, how to scale and crop
them, and how to average views. Needs `pip install onnxruntime numpy av`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[Any]


class UserError(Exception):
    """Raised for a wrong file or setting; the message says which."""


def load(path: str) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """A classifier with its metadata."""
    if not Path(path).is_file():
        raise UserError(f"there is no file '{path}'")
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for each kind of failure
        raise UserError(f"'{path}' is no ONNX model ({str(error).splitlines()[0]})") from error
    text = session.get_modelmeta().custom_metadata_map.get("vactk")
    facts = json.loads(text) if text else {}
    if facts.get("part") != "classifier":
        raise UserError(f"'{path}' is no classifier that vactk exported")
    return session, facts


class Clock(NamedTuple):
    """Timestamps of a video's frames (None if absent), and what its header states, else 0."""

    stamps: list[int | None]
    rate: float
    frames: int = 0
    ticks: int = 0


def frame_numbers(clock: Clock, wanted: int, views: int, sampling: dict[str, Any]) -> Array:
    """Return the frame indices to read, (views, wanted)."""
    num_frames = len(clock.stamps)
    if sampling["name"] == "uniform":  # centres of equal segments, dealt out to the views
        segment, view = np.arange(wanted), np.arange(views)[:, None]
        return (2 * (segment * views + view) + 1) * num_frames // (2 * views * wanted)
    if sampling["name"] == "openvclip":
        return np.stack(list(openvclip_frames(clock, wanted, views, sampling)))
    if sampling["name"] == "m2clip":
        return m2clip_frames(by_stamp(clock), wanted, views, sampling["stride"])
    offsets = np.arange(wanted) * sampling["stride"]
    slack = max(0, num_frames - 1 - int(offsets[-1]))
    if views == 1:
        starts = np.array([slack // 2])
    else:
        starts = (2 * slack * np.arange(views) + views - 1) // (2 * (views - 1))
    return np.minimum(starts[:, None] + offsets, num_frames - 1)


def by_stamp(clock: Clock) -> Array:
    """Order frames by timestamp, the last of equal ones; in decoding order if one has none."""
    if None in clock.stamps:
        return np.arange(len(clock.stamps))
    last = {stamp: number for number, stamp in enumerate(clock.stamps)}
    return np.array([last[stamp] for stamp in sorted(last)])


def m2clip_frames(order: Array, wanted: int, views: int, stride: int) -> Array:
    """Return M2-CLIP's frames: consecutive, or the middles of equal segments."""
    count = len(order)
    if not stride:
        borders = np.array([round(i * (count - 1) / wanted) for i in range(wanted + 1)])
        return order[np.tile((borders[:-1] + borders[1:]) // 2, (views, 1))]
    slack = max(0, count - stride * (wanted - 1) - 1)
    starts = [round(k * slack / (views - 1)) for k in range(views)] if views > 1 else [slack // 2]
    return order[np.minimum(np.array(starts)[:, None] + np.arange(wanted) * stride, count - 1)]


def openvclip_frames(clock: Clock, wanted: int, views: int, sampling: dict[str, Any]) -> Iterator[Array]:
    """Return Open-VCLIP's frames of each view: by the duration in the header, where there is one."""
    order, stride = by_stamp(clock), sampling["stride"]
    span = stride * wanted / sampling["fps"] * clock.rate
    timed = None not in clock.stamps
    frames = (timed and clock.frames) or len(clock.stamps)
    ticks = clock.ticks if timed else 0
    if ticks and sampling["starts"] != "spread":
        length = math.ceil(stride * (wanted - 1) / sampling["fps"] * clock.rate)
        stamps, step = np.array(clock.stamps), ticks / frames
        for view in range(views):
            start = view * max(frames - length, 0) / views
            late = np.flatnonzero(stamps > int((start + length - 1) * step))
            stop = late[0] + 1 if len(late) else len(stamps)
            decoded = order[(order < stop) & (stamps[order] >= int(start * step))]
            decoded = decoded if len(decoded) else order[-1:]
            yield decoded[_evenly(0.0, span, wanted, len(decoded))]
        return
    rest = max(frames - span, 0.0)
    for view in range(views):
        start = view * (rest // (views - 1)) if views > 1 else rest // 2
        yield order[_evenly(start, span, wanted, len(order))]


def _evenly(start: float, span: float, wanted: int, count: int) -> Array:
    """Return `wanted` numbers of `count`, from the first to the last of a span, as torch.linspace rounds them."""
    first, last = np.float32(start), np.float32(start + span - 1)
    step = (last - first) / np.float32(max(1, wanted - 1))
    half = np.arange(wanted) < wanted // 2
    up = first + step * np.arange(wanted, dtype=np.float32)
    down = last - step * np.arange(wanted - 1, -1, -1, dtype=np.float32)
    return np.clip(np.where(half, up, down) if wanted > 1 else up, 0, count - 1).astype(int)


def read_frames(path: str, choose: Any) -> Array:
    """Read the frames whose indices `choose(clock)` returns, uint8 (n, H, W, 3), upright."""
    numbers = choose(read_clock(path)).ravel()
    wanted, found = set(numbers.tolist()), {}
    for number, frame in enumerate(_decode(path)):
        if number in wanted:
            pixels = frame.to_ndarray(format="rgb24")
            found[number] = np.rot90(pixels, round(frame.rotation / 90) % 4)
    return np.stack([found[number] for number in numbers.tolist()])


def read_clock(path: str) -> Clock:
    """Read the timestamps of all frames that decode, and the header."""
    frames = [(frame.pts, frame.time) for frame in _decode(path)]
    if not frames:
        raise UserError(f"no frame of '{path}' can be decoded")
    with av.open(path) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 0)
        span_s = (frames[-1][1] or 0.0) - (frames[0][1] or 0.0)
        rate = rate or ((len(frames) - 1) / span_s if span_s > 0 else 25.0)
        return Clock([pts for pts, _ in frames], rate, stream.frames, stream.duration or 0)


def _decode(path: str) -> Iterator[av.VideoFrame]:
    try:
        with av.open(path) as container:
            yield from container.decode(video=0)
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"cannot read '{path}': {error}") from error


def resize_weights(old: int, new: int, scaling: str) -> Array:
    """Return the matrix (new, old) of a resize: bicubic with antialias (a = -0.5) as Pillow's, or without one."""
    if scaling != "clip":
        return _plain_weights(old, new, linear=scaling == "openvclip")
    scale = max(old / new, 1.0)  # pixels under the kernel's unit
    centres = (np.arange(new) + 0.5) * old / new
    weights = _cubic(np.abs((np.arange(old) + 0.5 - centres[:, None]) / scale), -0.5)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(x: Array, a: float) -> Array:
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _plain_weights(old: int, new: int, *, linear: bool) -> Array:
    """Return the matrix without antialiasing, linear or cubic (a = -0.75), with replicated edges."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        place = np.floor(centres) + tap
        distance = np.abs(centres - place)
        share = np.maximum(1 - distance, 0) if linear else _cubic(distance, -0.75)
        np.add.at(weights, (np.arange(new), np.clip(place, 0, old - 1).astype(int)), share)
    return weights


def resize(frames: Array, short_side: int, scaling: str) -> Array:
    """Resize the shorter side to `short_side`. uint8 (n, H, W, 3) -> (n, H', W', 3) from 0 to 255"""
    height, width = frames.shape[1:3]
    long, short = max(height, width), min(height, width)
    if short == short_side:
        return frames
    scaled = math.floor(long / short * short_side) if scaling == "openvclip" else long * short_side // short
    new = (short_side, max(1, scaled)) if height <= width else (max(1, scaled), short_side)
    across = np.einsum("wx,nhxc->nhwc", resize_weights(width, new[1], scaling), frames, optimize=True)
    if scaling == "clip":  # rounded in between too, as 8-bit pictures are
        across = np.clip(np.rint(across), 0, 255)
    both = np.einsum("hy,nywc->nhwc", resize_weights(height, new[0], scaling), across, optimize=True)
    return np.clip(np.rint(both), 0, 255) if scaling == "clip" else both


def crop(frames: Array, size: int, place: float, scaling: str) -> Array:
    """Crop a square along the longer side, at 0 its start, at 1 its end. (n, H, W, 3) -> (n, size, size, 3)"""
    down, across = frames.shape[1] - size, frames.shape[2] - size
    places = (place, 0.5) if down > across else (0.5, place)
    rounded = {"clip": round, "openvclip": math.ceil, "m2clip": math.floor}[scaling]
    top, left = rounded(down * places[0]), rounded(across * places[1])
    return frames[:, top : top + size, left : left + size]


def prepare(frames: Array, views: int, facts: dict[str, Any]) -> Array:
    """Prepare frames for the classifier: float32 (views * crops, T, 3, size, size)."""
    how = facts["preprocessing"]
    scaling = how["scaling"]
    resized = resize(frames, how["short_side"], scaling)
    clips = resized.reshape(views, -1, *resized.shape[1:])
    crops = [crop(clip, how["size"], place, scaling) for clip in clips for place in how["crops"]]
    pixels = np.stack(crops).astype(np.float32) / np.float32(255)
    normal = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return np.ascontiguousarray(normal.transpose(0, 1, 4, 2, 3), dtype=np.float32)


def mean_over_views(logits: Array, probabilities: Array, view_mean: str) -> Array:
    """Merge the probabilities of a video's views. (V, C) twice -> (C,)"""
    if view_mean == "probabilities":
        return probabilities.mean(axis=0)
    mean = logits.mean(axis=0)
    exponentials = np.exp(mean - mean.max())
    return exponentials / exponentials.sum()


def classify(
    session: onnxruntime.InferenceSession, facts: dict[str, Any], path: str, num_frames: int | None = None
) -> list[tuple[str, float]]:
    """Return labels and probabilities of a video, the most probable first."""
    num_frames = num_frames or facts["frames"]["usual"]
    takes, views = facts["frames"]["takes"], facts["views"]
    if takes != "any" and num_frames != takes:
        raise UserError(
            f"the file was exported for {takes} frames and cannot take {num_frames}: leave out --frames, or "
            "export it again without --static-frames"
        )
    frames = read_frames(path, lambda clock: frame_numbers(clock, num_frames, views, facts["sampling"]))
    logits, probabilities = session.run(["logits", "probabilities"], {"video": prepare(frames, views, facts)})
    answer = mean_over_views(logits, probabilities, facts["view_mean"])
    return [(facts["labels"][i], float(answer[i])) for i in np.argsort(-answer, kind="stable")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="classifier.onnx")
    parser.add_argument("videos", nargs="+", help="video files")
    parser.add_argument("--frames", type=int, help="frames per view; by default as trained")
    parser.add_argument("--json", action="store_true", help="print JSON as `vactk zeroshot --json` does")
    options = parser.parse_args()
    try:
        session, facts = load(options.model)
        answers = [(video, classify(session, facts, video, options.frames)) for video in options.videos]
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if options.json:
        found = [
            {"video": video, "labels": [{"label": label, "probability": p} for label, p in ranked]}
            for video, ranked in answers
        ]
        print(json.dumps({"predictions": found}, ensure_ascii=False))
        return 0
    for video, ranked in answers:
        print(f"{video}: " + ", ".join(f"{label} {100 * p:.1f}%" for label, p in ranked[:3]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
