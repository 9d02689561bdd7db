from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.conftest import write_video
from vactk.errors import VactkError
from vactk.retrieval.cut import clip_names, cut, cut_clips, query_folder, safe_name
from vactk.retrieval.hits import Hit
from vactk.video.container import VideoError
from vactk.video.read import Video, open_video


def hit(video, start_s=0.5, end_s=1.5, rank=1):
    return Hit(rank=rank, score=0.3125, key=rank, video=video, start_s=start_s, end_s=end_s)


def difference(one, other):
    return float((one.float() - other.float()).abs().mean())


def test_a_clip_has_the_frames_of_its_range_at_their_times(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=48, keyframe_every=16, size=(64, 96))
    cut(path, 1.0, 2.5, tmp_path / "clip.mp4")
    with open_video(path) as source, open_video(tmp_path / "clip.mp4") as clip:
        assert clip.num_frames == 18  # at 12 frames per second
        assert clip.times_s.tolist() == pytest.approx([n / 12 for n in range(18)], abs=1e-3)
        assert clip.duration_s == pytest.approx(1.5, abs=0.02)
        assert difference(clip.read(range(18)), source.read(range(12, 30))) < 4
        assert difference(clip.read([0]), source.read([0])) > 6  # it would be told apart


def test_frames_of_uneven_times_keep_them_and_the_one_on_screen_is_there(tmp_path):
    times_s = [0.0, 0.1, 0.5, 1.3, 1.4, 2.6]
    path = write_video(tmp_path / "a.mp4", num_frames=6, times_s=times_s)
    cut(path, 0.3, 2.0, tmp_path / "clip.mp4")
    with open_video(path) as source, open_video(tmp_path / "clip.mp4") as clip:
        assert clip.times_s.tolist() == pytest.approx([0.0, 0.2, 1.0, 1.1], abs=2e-3)
        assert difference(clip.read(range(4)), source.read([1, 2, 3, 4])) < 4


@pytest.mark.parametrize(("rotation", "size"), [(0, (50, 70)), (90, (50, 70))])
def test_clips_are_upright_and_no_larger_than_asked(tmp_path, rotation, size):
    path = write_video(tmp_path / "a.mp4", rotation=rotation, size=size)
    cut(path, 0.0, 1.0, tmp_path / "clip.mp4")
    cut(path, 0.0, 1.0, tmp_path / "small.mp4", max_side=32)
    with open_video(path) as source, open_video(tmp_path / "clip.mp4") as clip:
        assert (clip.height, clip.width) == (source.height, source.width)
        assert (clip.width < clip.height) == (rotation == 90)
    with open_video(tmp_path / "small.mp4") as small:
        assert max(small.height, small.width) <= 32


def with_sound(path):
    """Two seconds of video; the sound is silent in the first and a tone in the second."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=12)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono")
        for number in range(24):
            picture = np.full((48, 64, 3), number * 10, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        time_s = np.arange(32000) / 16000
        wave = np.where(time_s < 1, 0, 0.5 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
        for start in range(0, 32000, 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


def loudness(path):
    """Mean size of the sound in tenths of a second."""
    with av.open(str(path)) as container:
        samples = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    wave = np.abs(np.concatenate(samples))
    return [float(part.mean()) for part in np.array_split(wave, len(wave) // 4800)]


def test_sound_comes_along_in_time(tmp_path):
    path = with_sound(tmp_path / "a.mp4")
    cut(path, 0.5, 1.5, tmp_path / "clip.mp4")
    loud = loudness(tmp_path / "clip.mp4")
    assert len(loud) == pytest.approx(10, abs=1)
    assert max(loud[:4]) < 0.05
    assert min(loud[6:9]) > 0.2


def test_hits_become_files_that_any_system_takes(tmp_path):
    path = write_video(tmp_path / "a b?.mp4")
    hits = [hit(path), hit(path), hit(tmp_path / "gone.mp4", rank=2)]
    written, failed = cut_clips(hits, tmp_path / "clips")
    assert [p.name for p in written] == ["01_0.312_a_b_0.5-1.5s.mp4", "01_0.312_a_b_0.5-1.5s_2.mp4"]
    assert len(failed) == 1
    assert "gone.mp4" in failed[0]
    assert sorted(p.name for p in (tmp_path / "clips").iterdir()) == sorted(p.name for p in written)
    with pytest.raises(VactkError, match="exists; choose another folder for --cut"):
        cut_clips(hits, tmp_path / "clips")


def test_names_are_safe_short_and_different():
    assert safe_name("../../etc/passwd") == "etc_passwd"
    assert safe_name("\U0001f415") == "video"
    assert len(safe_name("é" * 500).encode()) <= 100
    assert query_folder(Path("x"), 2, "a red/star").name == "02_a_red_star"
    names = clip_names([hit(Path("a/X.mp4")), hit(Path("b/x.mp4"))])
    assert len({name.lower() for name in names}) == 2


def test_what_cannot_be_cut_leaves_nothing(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="it lasts"):
        cut(path, 50.0, 60.0, tmp_path / "clip.mp4")
    (tmp_path / "taken.mp4").write_bytes(b"precious")
    with pytest.raises(VactkError, match="exists"):
        cut(path, 0.0, 1.0, tmp_path / "taken.mp4")
    assert (tmp_path / "taken.mp4").read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "taken.mp4"]


def test_a_clip_on_which_the_decoder_hangs_is_given_up_and_leaves_nothing(tmp_path, monkeypatch):
    good, bad = write_video(tmp_path / "good.mp4"), write_video(tmp_path / "bad.mp4")
    honest = Video.stream

    def hangs(self, **window):
        for number, frame in enumerate(honest(self, **window)):
            if number == 3 and self.path == bad:
                time.sleep(60)
            yield frame

    monkeypatch.setattr(Video, "stream", hangs)
    monkeypatch.setattr("vactk.retrieval.cut.TIMEOUT_S", 1.0)
    monkeypatch.setattr("vactk.retrieval.cut.SLOWEST", 0.0)
    written, failed = cut_clips([hit(bad), hit(good, rank=2)], tmp_path / "clips")
    assert failed == [f"cannot read video '{bad}': reading it took over 1 s"]
    assert list((tmp_path / "clips").iterdir()) == written
    assert len(written) == 1
