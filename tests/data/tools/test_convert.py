from __future__ import annotations

import pytest
import torch

from tests.data import trees
from tests.video.conftest import write_video
from vactk.data.benchmarks import BENCHMARKS
from vactk.data.tools.convert import Encoding, convert
from vactk.errors import VactkError
from vactk.video import open_video


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "source"
    (root / "a").mkdir(parents=True)
    write_video(root / "a/wide.mp4", num_frames=20, size=(96, 128))
    write_video(root / "a/turned.mp4", num_frames=9, size=(96, 128), rotation=90)
    times_s = [0, 0.1, 0.5, 0.6, 2.0]
    write_video(root / "a/uneven.mkv", num_frames=5, size=(65, 49), times_s=times_s, pix_fmt="yuv444p")
    trees.half_video(root / "half.mp4")
    (root / "broken.webm").write_bytes(b"broken")
    (root / "list.txt").write_text("a/wide.mp4 0\n")
    return root


@pytest.mark.filterwarnings("ignore:only the first")
@pytest.mark.parametrize("workers", [0, 2])
def test_every_frame_is_kept_at_its_time(source, tmp_path, workers):
    result = convert(source, tmp_path / "out", Encoding(short_side=64), workers=workers)
    assert (result.converted, result.existing) == (3, 0)
    assert list(result.partial) == [str(source / "half.mp4")]
    assert list(result.unreadable) == [str(source / "broken.webm")]
    assert (tmp_path / "out/list.txt").read_text() == "a/wide.mp4 0\n"
    for name, short_side in (
        ("a/wide.mp4", 64),
        ("a/turned.mp4", 64),
        ("a/uneven.mkv", 49),
        ("half.mp4", 48),
    ):
        with (
            open_video(source / name) as old,
            open_video((tmp_path / "out" / name).with_suffix(".mp4")) as new,
        ):
            assert new.num_frames == old.num_frames
            torch.testing.assert_close(new.times_s, old.times_s, atol=1e-3, rtol=0)
            size = (new.height, new.width)
            assert min(size) in (short_side, short_side + 1)
            one = new.read([0, old.num_frames - 1]).float()
            other = old.read([0, old.num_frames - 1], short_side=short_side).float()
            height, width = other.shape[-2:]
            assert (one[..., :height, :width] - other).abs().mean() < 12  # of 255: the codec's loss
            assert new.warning is None


def test_going_on_keeps_what_is_there(source, tmp_path):
    convert(source, tmp_path / "out", Encoding(short_side=64), workers=0)
    kept = (tmp_path / "out/a/wide.mp4").stat().st_mtime_ns
    (tmp_path / "out/a/turned.mp4").unlink()
    result = convert(source, tmp_path / "out", Encoding(short_side=64), workers=0)
    assert (result.converted, result.existing) == (1, 3)
    assert (tmp_path / "out/a/wide.mp4").stat().st_mtime_ns == kept
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_a_converted_benchmark_is_one(tmp_path):
    root = trees.hmdb51(tmp_path / "old", make=trees.tiny_video)
    convert(root, tmp_path / "new", Encoding(short_side=32), workers=0)
    old, new = (BENCHMARKS["hmdb51"].load("train1", root=place) for place in (root, tmp_path / "new"))
    assert [(r.name, r.label) for r in old.records] == [(r.name, r.label) for r in new.records]
    assert {record.video.suffix for record in new.records} == {".mp4"}


def test_what_cannot_be_converted_is_said(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(VactkError, match="there are no videos in"):
        convert(tmp_path / "x", tmp_path / "out", workers=0)
    trees.touch(tmp_path / "x/1.avi")
    trees.touch(tmp_path / "x/1.mkv")
    with pytest.raises(VactkError, match=r"1.avi' and '.*1.mkv' would both become '.*1.mp4'"):
        convert(tmp_path / "x", tmp_path / "out", workers=0)
    with pytest.raises(VactkError, match=r"is inside '.*x'; choose another --output"):
        convert(tmp_path / "x", tmp_path / "x/out", workers=0)
