from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.retrieval.conftest import reading
from tests.video.conftest import write_video
from vactk.data import windows
from vactk.data.config import ImageSpec
from vactk.data.records import Record
from vactk.data.windows import Durations, Piece, WindowConfig, WindowDataset, collate, pieces
from vactk.errors import VactkError
from vactk.video.reader import open_video, sample_video
from vactk.video.sampling import uniform_segments
from vactk.video.transforms import TransformConfig, eval_transform

PICTURE = ImageSpec(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SECONDS = st.floats(0.1, 500.0)


@given(SECONDS, st.floats(5.0, 100.0), st.floats(0.2, 1.0))
def test_windows_cover_every_moment_once_the_stride_allows(duration_s, length_s, share):
    config = WindowConfig(length_s=length_s, stride_s=length_s * share)
    spans = [config.span(number, duration_s) for number in range(config.count(duration_s))]
    assert spans[0][0] == 0
    assert spans[-1][1] == pytest.approx(duration_s, rel=1e-6)
    for (start_s, end_s), (next_s, _) in pairwise(spans):
        assert end_s - start_s == pytest.approx(length_s)
        assert start_s < next_s <= end_s + 1e-9
    assert all(start_s < end_s for start_s, end_s in spans)


@given(st.one_of(st.none(), SECONDS), SECONDS)
def test_pieces_hold_all_windows_and_one_is_the_last(duration_s, length_s):
    config = WindowConfig(length_s=length_s)
    found = pieces(3, duration_s, config, windows.CHUNK)
    assert [piece.first for piece in found] == list(range(0, len(found) * windows.CHUNK, windows.CHUNK))
    assert [piece.is_last for piece in found] == [False] * (len(found) - 1) + [True]
    assert found[-1].first < max(1, config.count(duration_s or 0.0))


@pytest.mark.parametrize(
    ("length_s", "stride_s", "message"),
    [
        (-1.0, 0.0, "seconds of at least 0"),
        (float("inf"), 0.0, "seconds of at least 0"),
        (float("nan"), 0.0, "seconds of at least 0"),
        (0.0, 2.0, "goes with --window"),
        (2.0, 3.0, "leaves out"),
    ],
)
def test_windows_that_make_no_sense_are_refused(length_s, stride_s, message):
    with pytest.raises(VactkError, match=message):
        WindowConfig(length_s=length_s, stride_s=stride_s)


def slow_views(path, span, config):
    """A window's input by the reader of the other commands."""
    sample = sample_video(
        path,
        lambda timeline: uniform_segments(timeline.num_frames, 3, num_views=config.views).flatten(),
        start_s=span[0],
        end_s=span[1],
    )
    crops = eval_transform(config.transform, *PICTURE)
    return torch.cat([crops(clip) for clip in sample.frames.unflatten(0, (config.views, 3))])


def views_of(read):
    """All views of a piece, as a batch gives them."""
    return collate([read]).views(0, len(read.spans))


@pytest.mark.parametrize("crops", [1, 3])
@pytest.mark.parametrize("part", [(None, None), (0.5, 2.2)])
def test_windows_have_the_frames_that_reading_each_alone_gives(tmp_path, crops, part):
    path = write_video(tmp_path / "long.mp4", num_frames=40)
    set_up = reading(0.9, 0.4, views=2, transform=TransformConfig(eval_crops=crops))
    record = Record(video=path, start_s=part[0], end_s=part[1])
    read = WindowDataset([record], set_up.windows, set_up.data, PICTURE)[Piece(0, 0, True)]
    assert read.error is None
    begin, end = part[0] or 0.0, part[1] or 40 / 12
    assert read.spans[0] == pytest.approx((begin, begin + 0.9))
    assert read.spans[-1][1] == pytest.approx(end)
    assert len(read.spans) == set_up.windows.count(end - begin)
    for views, span in zip(views_of(read), read.spans, strict=True):
        torch.testing.assert_close(views, slow_views(path, span, set_up.data), rtol=0, atol=0)


def test_a_long_video_in_pieces_is_the_video_in_one(tmp_path):
    path = write_video(tmp_path / "long.mp4", num_frames=60)
    set_up = reading(0.5, 0.25)
    dataset = WindowDataset([Record(video=path)], set_up.windows, set_up.data, PICTURE)
    whole = dataset[Piece(0, 0, True)]
    planned = pieces(0, Durations([Record(video=path)])[0], set_up.windows, 7)
    assert len(planned) == 3
    dataset.per_piece = 7
    parts = [dataset[piece] for piece in planned]
    assert [span for part in parts for span in part.spans] == whole.spans
    torch.testing.assert_close(torch.cat([*map(views_of, parts)]), views_of(whole), rtol=0, atol=0)


def test_windows_that_share_frames_are_read_together_and_each_frame_once(tmp_path):
    path = write_video(tmp_path / "long.mp4", num_frames=60)
    set_up = reading(1.5, 0.5)
    dataset = WindowDataset([Record(video=path)], set_up.windows, set_up.data, PICTURE)
    assert dataset.per_piece == 3 * windows.CHUNK
    read = dataset[Piece(0, 0, True)]
    assert len(read.frames) == len(read.spans) + 2  # of 1.5 s, a frame in the middle of each half second
    assert WindowDataset([], reading(1.5, 1.1).windows, set_up.data, PICTURE).per_piece == windows.CHUNK


def test_a_long_videos_file_is_opened_once_for_its_pieces_and_then_closed(tmp_path, monkeypatch):
    path = write_video(tmp_path / "long.mp4", num_frames=60)
    opened = []
    monkeypatch.setattr(windows, "open_video", lambda *args: opened.append(open_video(*args)) or opened[-1])
    set_up = reading(0.5, 0.25)
    dataset = WindowDataset([Record(video=path)], set_up.windows, set_up.data, PICTURE)
    for piece in pieces(0, 5.0, set_up.windows, 7):
        assert dataset[piece].error is None
    assert len(opened) == 1
    assert dataset._open is None


def test_pieces_beyond_the_end_are_empty_and_not_an_error(tmp_path):
    """A header may promise more than there is."""
    path = write_video(tmp_path / "short.mp4", num_frames=12)
    set_up = reading(0.5)
    read = WindowDataset([Record(video=path)], set_up.windows, set_up.data, PICTURE)[Piece(0, 32, True)]
    assert (read.error, read.spans) == (None, [])


def test_a_video_far_longer_than_its_header_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "CHUNK", 2)
    path = write_video(tmp_path / "long.mp4", num_frames=60)
    set_up = reading(0.5)
    read = WindowDataset([Record(video=path)], set_up.windows, set_up.data, PICTURE)[Piece(0, 0, True)]
    assert "longer than its header says" in read.error


def test_what_cannot_be_opened_is_planned_in_one_piece_and_fails_in_reading(tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video")
    set_up = reading(0.5)
    assert Durations([Record(video=path)])[0] is None
    read = WindowDataset([Record(video=path)], set_up.windows, set_up.data, PICTURE)[Piece(0, 0, True)]
    assert "broken.mp4" in read.error
