"""Every video of `--data` reads as its expected.json says; what a whole decode by PyAV gives is the oracle."""

import contextlib
import faulthandler
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.video.conftest import decode_whole
from vactk.video import Sample, VideoError, VideoWarning, open_video, sample_video, uniform_segments

TIME_BOUND_S = 60


def records(data: Path, name: str) -> list[dict]:
    path = data / name
    return json.loads(path.read_text())["videos"] if path.is_file() else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    outcomes = {"readable": ("reads", "partly"), "partial": ("partly",), "unreadable": ("unreadable",)}
    data = metafunc.config.getoption("--data")
    for argument in outcomes.keys() & set(metafunc.fixturenames):
        videos = [v for v in records(data, "expected.json") if v["outcome"] in outcomes[argument]]
        metafunc.parametrize(argument, videos, ids=[Path(video["file"]).name for video in videos])


@pytest.fixture(autouse=True)
def _time_bound():
    """A reader that hangs in C cannot be interrupted: show where and end the run."""
    faulthandler.dump_traceback_later(TIME_BOUND_S, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def colour_means(data_dir) -> dict[str, list]:
    return {video["file"]: video.get("frame_means_rgb", []) for video in records(data_dir, "readers.json")}


def eight_frames(timeline):
    return uniform_segments(timeline.num_frames, 8)


def test_the_frames_asked_for_come_back(readable, data_dir, colour_means):
    path, count = data_dir / readable["file"], readable["frames"]
    known = dict(colour_means.get(readable["file"], []))
    some = uniform_segments(count, 5)[0].tolist()
    oracle, oracle_count = decode_whole(path, {*some, 0, count - 1})
    asked = [count - 1, *some, 0, *known]
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", VideoWarning)
        video = stack.enter_context(open_video(path))
        frames = video.read(asked)
        assert video.num_frames == oracle_count == count
        assert (video.height, video.width) == oracle[0].shape[:2]
        assert video.times_s[0] == 0
        assert (video.times_s.diff() > 0).all()
    for frame, number in zip(frames, asked, strict=True):
        if number in oracle:
            np.testing.assert_array_equal(frame.permute(1, 2, 0).numpy(), oracle[number])
        if number in known:
            assert frame.float().mean((1, 2)).tolist() == pytest.approx(known[number], abs=1)


def test_sampling_says_whether_the_video_is_complete(readable, data_dir):
    path, whole = data_dir / readable["file"], readable["outcome"] == "reads"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sample = sample_video(path, eight_frames, short_side=32)
    assert (sample.complete, sample.num_frames) == (whole, readable["frames"])
    assert min(sample.frames.shape[2:]) == 32
    told = [str(warning.message) for warning in caught if warning.category is VideoWarning]
    assert told == ([] if whole else [sample.warning])
    assert whole or str(path) in sample.warning


@pytest.mark.parametrize("decoder", ["auto", "decord", "pyav"])
def test_what_cannot_be_read_is_named(unreadable, data_dir, decoder):
    path = data_dir / unreadable["file"]
    with pytest.raises(VideoError) as caught:
        sample_video(path, eight_frames, decoder=decoder)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def by_decord(path: Path) -> Sample | str:
    """What decord reads, or why it does not."""
    try:
        return sample_video(path, eight_frames, decoder="decord")
    except VideoError as error:
        return str(error)


def test_decord_agrees_or_is_refused(readable, data_dir):
    path = data_dir / readable["file"]
    sample = by_decord(path)
    if isinstance(sample, str):
        assert str(path) in sample
        assert "choose --decoder auto or pyav" in sample
        return
    expected = sample_video(path, eight_frames, decoder="pyav")
    assert sample.num_frames == expected.num_frames
    assert torch.equal(sample.times_s, expected.times_s)
    torch.testing.assert_close(sample.frames, expected.frames, rtol=0, atol=2)


def test_decord_is_not_refused_everywhere(data_dir):
    common = [video["file"] for video in records(data_dir, "readers.json") if is_exact_h264(video)]
    if not common:
        pytest.skip("no readers.json says where decord is exact")
    refused = [file for file in common if why_not_decord(data_dir / file) is not None]
    assert len(refused) <= len(common) / 4, refused


def why_not_decord(path: Path) -> str | None:
    try:
        open_video(path, "decord").close()
    except VideoError as error:
        return str(error)
    return None


def is_exact_h264(video: dict) -> bool:
    verdict = (video.get("decord_0_6_0") or {}).get("verdict")
    return verdict == "exact" and video.get("codec") == "h264" and "avi" not in str(video.get("container"))
