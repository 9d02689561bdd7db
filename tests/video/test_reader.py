import sys
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.filter import Graph

import vactk.video.decoders
import vactk.video.reader
from tests.video.conftest import decode_whole, write_video
from vactk.errors import VactkError
from vactk.video import VideoError, VideoWarning, open_video, sample_video, uniform_segments
from vactk.video.decoders import PacketTableDecoder, SequentialDecoder
from vactk.video.packet_table import _parameter_sets

UNEVEN_S = [number * 0.08 + (number > 9) * 0.5 + number % 3 * 0.02 for number in range(24)]
BY_TABLE = {
    "h264.mp4": {},
    "pyramid.mkv": {"options": {"preset": "medium", "x264-params": "b-pyramid=normal:bframes=5:ref=4"}},
    "open_gop.mp4": {"options": {"x264-params": "open-gop=1:bframes=3:keyint=8:min-keyint=8"}},
    "intra_refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "interlaced.mkv": {"options": {"x264-params": "tff=1:bframes=2", "flags": "+ildct+ilme"}},
    "uneven.mp4": {"times_s": UNEVEN_S},
    "tiny.mp4": {"size": (8, 10)},
    "open_gop_hevc.mp4": {"codec": "libx265"},
    "vp8.webm": {"codec": "libvpx", "options": {"deadline": "realtime"}},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "hidden_frames.webm": {"codec": "libvpx-vp9", "options": {"deadline": "good", "lag-in-frames": "16"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}
WHOLE = {
    "b_frames.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "odd_size.mkv": {"codec": "ffv1", "size": (47, 63)},
}


def eight_frames(timeline):
    return uniform_segments(timeline.num_frames, 8)


def as_stored(frame: torch.Tensor) -> np.ndarray:
    return frame.permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def h264(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "h264.mp4")


@pytest.mark.parametrize("name", [*BY_TABLE, *WHOLE])
def test_every_frame_is_that_of_a_whole_decode(name, tmp_path):
    path = write_video(tmp_path / name, **(BY_TABLE | WHOLE)[name])
    expected, count = decode_whole(path)
    with open_video(path) as video:
        assert isinstance(video._source, PacketTableDecoder if name in BY_TABLE else SequentialDecoder)
        assert (video.num_frames, video.height, video.width) == (count, *expected[0].shape[:2])
        for frame, picture in zip(video.read(range(count)), expected.values(), strict=True):
            np.testing.assert_array_equal(as_stored(frame), picture)
        for number in reversed(range(count)):
            np.testing.assert_array_equal(as_stored(video.read([number])[0]), expected[number])
        assert isinstance(video._source, PacketTableDecoder if name in BY_TABLE else SequentialDecoder)


def test_frames_come_in_the_order_asked_for_with_repeats(h264):
    expected, _ = decode_whole(h264)
    asked = [9, 23, 9, 0, 16]
    with open_video(str(h264)) as video:
        frames = video.read(torch.tensor(asked))
    assert (frames.shape, frames.dtype) == ((5, 3, 48, 64), torch.uint8)
    for frame, number in zip(frames, asked, strict=True):
        np.testing.assert_array_equal(as_stored(frame), expected[number])


def test_times_start_at_zero_and_follow_the_time_stamps(tmp_path):
    with open_video(write_video(tmp_path / "uneven.mp4", times_s=[3 + time for time in UNEVEN_S])) as video:
        np.testing.assert_allclose(video.times_s, UNEVEN_S, atol=0.0015)
        assert video.fps == pytest.approx(23 / UNEVEN_S[-1], rel=0.01)


def test_only_the_pictures_needed_are_decoded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "long.mp4", num_frames=96)
    with open_video(path) as video:
        fed = []
        feed = video._source._packets_from
        monkeypatch.setattr(video._source, "_packets_from", lambda *run: fed.append(run) or feed(*run))
        video.read([50, 2])
    assert [start for start, _ in fed] == [0, 48]
    assert sum(last - start + 1 for start, last in fed) <= 10


@pytest.mark.parametrize(("short_side", "tolerance"), [(16, 6), (17, 0.5), (24, 0.5), (40, 0.5), (96, 0.5)])
def test_short_side_keeps_the_aspect(h264, short_side, tolerance):
    with open_video(h264) as video:
        frames = video.read([4], short_side)
        whole = video.read([4])
    assert frames.shape == (1, 3, short_side, short_side * 64 // 48)
    resized = torch.nn.functional.interpolate(whole.float(), frames.shape[2:], mode="bicubic", antialias=True)
    assert (frames - resized.clamp(0, 255)).abs().mean() < tolerance


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_pictures_are_upright(tmp_path, rotation):
    path = write_video(tmp_path / "turned.mp4", rotation=rotation, size=(48, 96))
    expected, _ = decode_whole(path)
    with open_video(path) as video:
        assert (video.height, video.width) == ((48, 96) if rotation == 180 else (96, 48))
        np.testing.assert_array_equal(as_stored(video.read([3])[0]), expected[3])
        assert video.read([3], short_side=24).shape[2:] == ((24, 48) if rotation == 180 else (48, 24))


def test_a_window_is_cut_by_time_stamps(tmp_path):
    path = write_video(tmp_path / "uneven.mp4", times_s=UNEVEN_S)

    def all_of_it(timeline):
        return torch.arange(timeline.num_frames)

    def times(start_s, end_s):
        return sample_video(path, all_of_it, start_s=start_s, end_s=end_s).times_s.tolist()

    expected = [time for time in UNEVEN_S if 0.4 <= time < 1.5]
    assert times(0.4, 1.5) == pytest.approx(expected, abs=0.002)
    assert times(None, 0.5) + times(0.5, None) == pytest.approx(UNEVEN_S, abs=0.002)
    assert times(1.0, 1.1) == pytest.approx([UNEVEN_S[9]], abs=0.002)  # in the gap: what is on screen
    assert times(0, 0.0001) == [0]
    with pytest.raises(VideoError, match=r"no frames from 60 to 70 s: it lasts 2\.\d\d s"):
        times(60, 70)
    with pytest.raises(VideoError, match="no frames from 2 to 1 s"):
        times(2, 1)


def test_views_come_back_flattened(h264):
    sample = sample_video(h264, lambda timeline: uniform_segments(timeline.num_frames, 4, num_views=3))
    assert sample.frames.shape == (12, 3, 48, 64)
    assert sample.times_s.tolist() == pytest.approx(
        [n / 12 for v in range(3) for n in range(1 + 2 * v, 24, 6)]
    )
    assert (sample.num_frames, sample.complete, sample.warning) == (24, True, None)


@pytest.mark.parametrize("wrong", [[24], [-1], [], [0.5]])
def test_impossible_frame_numbers_are_refused(h264, wrong):
    with open_video(h264) as video, pytest.raises(ValueError, match="frame numbers must be"):
        video.read(wrong)
    with pytest.raises(ValueError, match="frame numbers must be"):
        sample_video(h264, lambda timeline: torch.tensor(wrong))


def damaged(path: Path, share: float, keep: bool) -> Path:
    """Cuts the file at a share of its length, or puts zeros there."""
    data = path.read_bytes()
    at = int(len(data) * share)
    path.write_bytes(data[:at] + (bytes(400) + data[at + 400 :] if keep else b""))
    return path


@pytest.mark.parametrize("keep", [False, True], ids=["cut short", "zeros within"])
def test_what_decodes_of_a_damaged_video_is_sampled_with_a_warning(tmp_path, keep):
    how = {"container_options": {"movflags": "faststart"}, "num_frames": 60}
    path = damaged(write_video(tmp_path / "video.mp4", **how), 0.6, keep)
    expected, count = decode_whole(path)
    assert 0 < count < 60
    with pytest.warns(VideoWarning, match=f"only the first {count} frames of '{path}' decode"):
        sample = sample_video(path, eight_frames)
    assert not sample.complete
    assert str(path) in sample.warning
    assert sample.num_frames == count
    for frame, number in zip(sample.frames, uniform_segments(count, 8)[0].tolist(), strict=True):
        np.testing.assert_array_equal(as_stored(frame), expected[number])


def test_a_wrong_packet_table_is_found_out(h264, monkeypatch):
    expected, count = decode_whole(h264)
    honest = vactk.video.reader.packet_table

    def lying(container, stream):
        table = honest(container, stream)
        table.shown_at[table.order[20:]] += 7
        return table

    monkeypatch.setattr(vactk.video.reader, "packet_table", lying)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample = sample_video(h264, eight_frames)
        with open_video(h264) as video:
            np.testing.assert_array_equal(as_stored(video.read([22])[0]), expected[22])
            assert isinstance(video._source, SequentialDecoder)
    for frame, number in zip(sample.frames, uniform_segments(count, 8)[0].tolist(), strict=True):
        np.testing.assert_array_equal(as_stored(frame), expected[number])


def test_a_long_video_is_decoded_twice_instead_of_kept(tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.ts", codec="mpeg2video")
    expected, _ = decode_whole(path)
    monkeypatch.setattr(vactk.video.decoders, "MAX_KEPT_BYTES", 10_000)
    with open_video(path) as video:
        assert video._source._kept is None
        for number in (20, 3):
            np.testing.assert_array_equal(as_stored(video.read([number])[0]), expected[number])


def two_of_one_buffer(picture: av.VideoFrame) -> tuple[av.VideoFrame, av.VideoFrame]:
    """A picture as a decoder returns it, and the decoder's own hold on the same memory."""
    graph = Graph()
    source = graph.add_buffer(template=None, width=picture.width, height=picture.height,
                              format=picture.format, time_base=picture.time_base)  # fmt: skip
    split = graph.add("split")
    source.link_to(split)
    sinks = [graph.add("buffersink"), graph.add("buffersink")]
    for place, sink in enumerate(sinks):
        split.link_to(sink, place)
    graph.configure()
    source.push(picture)
    shown, held = (sink.pull() for sink in sinks)
    return shown, held


def test_kept_pictures_are_not_changed_by_the_decoder_afterwards(tmp_path, monkeypatch):
    """As one paints the second field of an MPEG-2 picture that it has returned already."""
    path = write_video(tmp_path / "video.ts", codec="mpeg2video")
    expected, count = decode_whole(path)
    honest = SequentialDecoder._decode

    def paints_on(self, container, stream):
        for picture in honest(self, container, stream):
            shown, held = two_of_one_buffer(picture)
            yield shown
            held.planes[0].update(bytes(held.planes[0].buffer_size))

    monkeypatch.setattr(SequentialDecoder, "_decode", paints_on)
    for kept_bytes in (vactk.video.decoders.MAX_KEPT_BYTES, 10_000):
        monkeypatch.setattr(vactk.video.decoders, "MAX_KEPT_BYTES", kept_bytes)
        with open_video(path) as video:
            for frame, picture in zip(video.read(range(count)), expected.values(), strict=True):
                np.testing.assert_array_equal(as_stored(frame), picture)


FOR_DECORD = {
    **{name: BY_TABLE[name] for name in ("h264.mp4", "uneven.mp4", "fragmented.mp4", "vp8.webm", "vp9.webm")},
    **{f"h264_{name}.mp4": {"pix_fmt": name} for name in ("yuvj420p", "yuv422p", "yuv444p", "yuvj444p")},
    "yuvj422p.mp4": {"pix_fmt": "yuvj422p", "size": (46, 62)},
    "vp9_yuv422p.webm": {"codec": "libvpx-vp9", "pix_fmt": "yuv422p"},
    "vp9_yuv444p.webm": {"codec": "libvpx-vp9", "pix_fmt": "yuv444p"},
}


@pytest.mark.parametrize("name", FOR_DECORD)
def test_decord_agrees(name, tmp_path):
    path = write_video(tmp_path / name, **FOR_DECORD[name])
    with open_video(path, "pyav") as expected, open_video(path, "decord") as video:
        assert video.num_frames == expected.num_frames
        assert (video.height, video.width) == (expected.height, expected.width)
        torch.testing.assert_close(video.read([23, 2, 2, 17]), expected.read([23, 2, 2, 17]), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mpeg4.avi", "mpeg4 in AVI"),
        ("open_gop_hevc.mp4", "hevc in"),
        ("open_gop.mp4", "files with such time stamps, hidden frames or damage"),
        ("tiny.mp4", "frames this small"),
        ("interlaced.mkv", "interlaced frames"),
        ("mpeg2.ts", "mpeg2video in"),
    ],
)
def test_decord_is_refused_where_it_is_not_exact(name, reason, tmp_path):
    path = write_video(tmp_path / name, **(BY_TABLE | WHOLE)[name])
    with pytest.raises(VideoError, match=f"'{path}'.*not exact for {reason}.*--decoder auto or pyav"):
        sample_video(path, eight_frames, decoder="decord")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("yuv420p10le.mp4", {}),
        ("yuv422p10le.mkv", {}),
        ("yuv440p.webm", {"codec": "libvpx-vp9"}),
    ],
)
def test_decord_is_refused_for_colours_that_it_changes(name, how, tmp_path):
    colours = Path(name).stem
    path = write_video(tmp_path / name, pix_fmt=colours, **how)
    expected, count = decode_whole(path)
    with pytest.raises(VideoError, match=f"not exact for colours stored as {colours}; choose --decoder auto"):
        open_video(path, "decord")
    with open_video(path) as video:
        for frame, picture in zip(video.read(range(count)), expected.values(), strict=True):
            np.testing.assert_array_equal(as_stored(frame), picture)


def joined(path: Path, first: Path, second: Path) -> Path:
    """The packets of both, the second's parameter sets before each of its points where decoding starts."""
    with av.open(str(first)) as one, av.open(str(second)) as two, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(one.streams.video[0])
        sets = sorted(_parameter_sets(two.streams.video[0].codec_context.extradata), key=lambda s: s[0] & 31)
        prefix = b"".join(len(unit).to_bytes(4, "big") + unit for unit in sets)
        begin = end = 0
        for source, before in ((one, b""), (two, prefix)):
            for packet in source.demux(video=0):
                if not packet.size:
                    begin = end
                    continue
                copy = av.Packet(before * packet.is_keyframe + bytes(packet))
                copy.pts, copy.dts, copy.time_base = packet.pts + begin, packet.dts + begin, packet.time_base
                copy.stream, copy.is_keyframe, copy.duration = stream, packet.is_keyframe, packet.duration
                end = copy.pts + copy.duration
                output.mux(copy)
    return path


@pytest.mark.parametrize(("size", "is_exact"), [((48, 64), True), ((96, 128), False)])
def test_decord_is_refused_where_parameter_sets_change(h264, size, is_exact, tmp_path):
    path = joined(tmp_path / "joined.mp4", h264, write_video(tmp_path / "second.mp4", size=size))
    with open_video(path) as video:
        assert video.num_frames == 48
        expected = video.read([2, 30])
    if is_exact:
        with open_video(path, "decord") as video:
            torch.testing.assert_close(video.read([2, 30]), expected, rtol=0, atol=0)
        return
    with pytest.raises(VideoError, match="not exact for parameter sets that change"):
        open_video(path, "decord")


def test_decord_may_be_absent(h264, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    assert sample_video(h264, eight_frames).complete
    with pytest.raises(VactkError, match="decord is not installed; choose --decoder auto or pyav"):
        sample_video(h264, eight_frames, decoder="decord")


def test_an_unknown_decoder_is_an_error(h264):
    with pytest.raises(VactkError, match="unknown decoder 'pyva'; did you mean 'pyav'"):
        open_video(h264, "pyva")
