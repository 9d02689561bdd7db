"""Names what a video shows, with a classifier that `vactk export` wrote: ONNX Runtime, NumPy and PyAV, no torch.

    vactk export --checkpoint runs/first --labels "star growing,star moving left" --output exported
    python examples/run_exported.py exported/classifier.onnx clip.mp4

The labels are those of `vactk zeroshot`: the file's metadata say which frames to take, how to scale and crop
them, and how to average views. Needs `pip install onnxruntime numpy av`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[Any]


class UserError(Exception):
    """A file or a setting is wrong; the message says which."""


def load(path: str) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """The classifier, and what its metadata say of it."""
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


def frame_numbers(num_frames: int, wanted: int, views: int, sampling: dict[str, Any]) -> Array:
    """Which frames of a video to take, (views, wanted)."""
    if sampling["name"] == "uniform":  # the centres of equal segments, shared out among the views
        segment, view = np.arange(wanted), np.arange(views)[:, None]
        return (2 * (segment * views + view) + 1) * num_frames // (2 * views * wanted)
    offsets = np.arange(wanted) * sampling["stride"]
    slack = max(0, num_frames - 1 - int(offsets[-1]))
    if views == 1:
        starts = np.array([slack // 2])
    else:
        starts = (2 * slack * np.arange(views) + views - 1) // (2 * (views - 1))
    return np.minimum(starts[:, None] + offsets, num_frames - 1)


def read_frames(path: str, choose: Any) -> Array:
    """The frames whose numbers `choose(number of all frames)` gives, uint8 (n, H, W, 3), upright."""
    count = sum(1 for _ in _decode(path))
    if not count:
        raise UserError(f"no frame of '{path}' can be decoded")
    numbers = choose(count).ravel()
    wanted, found = set(numbers.tolist()), {}
    for number, frame in enumerate(_decode(path)):
        if number in wanted:
            pixels = frame.to_ndarray(format="rgb24")
            found[number] = np.rot90(pixels, round(frame.rotation / 90) % 4)
    return np.stack([found[number] for number in numbers.tolist()])


def _decode(path: str) -> Iterator[av.VideoFrame]:
    try:
        with av.open(path) as container:
            yield from container.decode(video=0)
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"cannot read '{path}': {error}") from error


def resize_weights(old: int, new: int) -> Array:
    """The matrix (new, old) of an antialiased bicubic resize (a = -0.5, as Pillow's and torchvision's)."""
    scale = max(old / new, 1.0)  # pixels under the kernel's unit
    centres = (np.arange(new) + 0.5) * old / new
    x = np.abs((np.arange(old) + 0.5 - centres[:, None]) / scale)
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)
    weights = np.where(x < 2, weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def resize(frames: Array, size: int) -> Array:
    """The shorter side to `size`. uint8 (n, H, W, 3) -> uint8 (n, H', W', 3)"""
    height, width = frames.shape[1:3]
    if height <= width:
        new = (size, max(1, int(size * width / height)))
    else:
        new = (max(1, int(size * height / width)), size)
    if new == (height, width):
        return frames
    across = np.einsum("wx,nhxc->nhwc", resize_weights(width, new[1]), frames, optimize=True)
    across = np.clip(np.rint(across), 0, 255)  # rounded in between too, as those do
    both = np.einsum("hy,nywc->nhwc", resize_weights(height, new[0]), across, optimize=True)
    return np.clip(np.rint(both), 0, 255).astype(np.uint8)


def crop(frames: Array, size: int, place: float) -> Array:
    """A square along the longer side, at 0 its start, at 1 its end. (n, H, W, 3) -> (n, size, size, 3)"""
    down, across = frames.shape[1] - size, frames.shape[2] - size
    places = (place, 0.5) if down > across else (0.5, place)
    top, left = round(down * places[0]), round(across * places[1])
    return frames[:, top : top + size, left : left + size]


def prepare(frames: Array, views: int, facts: dict[str, Any]) -> Array:
    """Frames as the classifier takes them: float32 (views * crops, T, 3, size, size)."""
    how = facts["preprocessing"]
    resized = resize(frames, how["size"])
    clips = resized.reshape(views, -1, *resized.shape[1:])
    crops = [crop(clip, how["size"], place) for clip in clips for place in how["crops"]]
    pixels = np.stack(crops).astype(np.float32) / np.float32(255)
    normal = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return np.ascontiguousarray(normal.transpose(0, 1, 4, 2, 3), dtype=np.float32)


def mean_over_views(logits: Array, probabilities: Array, view_mean: str) -> Array:
    """Probabilities of a video from those of its views. (V, C) twice -> (C,)"""
    if view_mean == "probabilities":
        return probabilities.mean(axis=0)
    mean = logits.mean(axis=0)
    exponentials = np.exp(mean - mean.max())
    return exponentials / exponentials.sum()


def classify(
    session: onnxruntime.InferenceSession, facts: dict[str, Any], path: str, num_frames: int | None = None
) -> list[tuple[str, float]]:
    """Labels and probabilities of a video, the likeliest first."""
    num_frames = num_frames or facts["frames"]["usual"]
    takes, views = facts["frames"]["takes"], facts["views"]
    if takes != "any" and num_frames != takes:
        raise UserError(
            f"the file was exported for {takes} frames and cannot take {num_frames}: leave out --frames, or "
            "export it again without --static-frames"
        )
    frames = read_frames(path, lambda count: frame_numbers(count, num_frames, views, facts["sampling"]))
    logits, probabilities = session.run(["logits", "probabilities"], {"video": prepare(frames, views, facts)})
    answer = mean_over_views(logits, probabilities, facts["view_mean"])
    return [(facts["labels"][i], float(answer[i])) for i in np.argsort(-answer, kind="stable")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="classifier.onnx")
    parser.add_argument("videos", nargs="+", help="video files")
    parser.add_argument("--frames", type=int, help="frames of a view, by default as trained")
    parser.add_argument("--json", action="store_true", help="as `vactk zeroshot --json` prints them")
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
