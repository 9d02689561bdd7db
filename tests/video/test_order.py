"""The order of frames where a container's time stamps contradict the decoder: AVI files with packed B-frames."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest

from vactk.video import open_video

FEW = 400  # frames of a video that is decoded whole


def test_frames_come_in_the_order_of_their_display_whatever_the_stamps_say(data_dir):
    """Sorted by the container's stamps, neighbours are further apart than as the decoder puts them out."""
    checked = 0
    for item in json.loads((data_dir / "expected.json").read_text())["videos"]:
        path = data_dir / item["file"]
        if path.suffix.lower() != ".avi" or item["outcome"] != "reads" or item["frames"] > FEW:
            continue
        with av.open(str(path), metadata_errors="ignore") as container:
            decoded = [(f.pts, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
        stamps = [-1 if pts is None else pts for pts, _ in decoded]
        if stamps == sorted(stamps):
            continue
        pictures = np.stack([picture for _, picture in decoded])
        with open_video(path) as video:
            frames = video.read(list(range(video.num_frames))).permute(0, 2, 3, 1).numpy()
            assert (video.times_s.diff() > 0).all(), path
        np.testing.assert_array_equal(frames, pictures, err_msg=str(path))
        assert mean_step(frames) < mean_step(pictures[np.argsort(stamps, kind="stable")]), path
        checked += 1
    if not checked:
        pytest.skip("no AVI with stamps out of order here")


def mean_step(frames: np.ndarray) -> float:
    """Mean absolute difference between neighbouring frames (T, H, W, 3)."""
    return float(np.abs(np.diff(frames.astype(np.int16), axis=0)).mean())
