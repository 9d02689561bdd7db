from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vactk.video.sampling import (
    Clock,
    by_stamp,
    dense_views,
    m2clip_segments,
    m2clip_views,
    openvclip_starts,
    openvclip_views,
    uniform_segments,
)

lengths, counts, views = st.integers(1, 400), st.integers(1, 40), st.integers(1, 6)
strides = st.one_of(st.integers(1, 20), st.floats(0.25, 20))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def holds_in_range(indices: torch.Tensor, num_frames: int, num_views: int, count: int) -> None:
    assert (indices.shape, indices.dtype) == ((num_views, count), torch.int64)
    assert indices.min() >= 0
    assert indices.max() < num_frames
    assert (indices.diff(dim=1) >= 0).all()


@given(lengths, counts, views, st.none() | st.integers(0, 99))
def test_segments_are_in_range_and_sorted(num_frames, count, num_views, seed):
    generator = None if seed is None else seeded(seed)
    indices = uniform_segments(num_frames, count, num_views=num_views, generator=generator)
    holds_in_range(indices, num_frames, num_views, count)


@given(lengths, counts, views)
def test_segments_in_testing_equal_the_formula(num_frames, count, num_views):
    expected = [
        [floor((i + (v + Fraction(1, 2)) / num_views) * num_frames / count) for i in range(count)]
        for v in range(num_views)
    ]
    assert uniform_segments(num_frames, count, num_views=num_views).tolist() == expected


@given(lengths, counts, st.integers(0, 99))
def test_a_random_position_stays_in_its_segment(num_frames, count, seed):
    (indices,) = uniform_segments(num_frames, count, generator=seeded(seed)).tolist()
    for segment, index in enumerate(indices):
        begin, end = Fraction(segment * num_frames, count), Fraction((segment + 1) * num_frames, count)
        assert floor(begin) <= index <= floor(end)


def test_random_positions_cover_every_frame_evenly():
    drawn = uniform_segments(12, 4, num_views=6000, generator=seeded(0))
    shares = torch.bincount(drawn.flatten(), minlength=12) / 6000
    torch.testing.assert_close(shares, torch.full((12,), 1 / 3), rtol=0, atol=0.03)


def test_segments_of_a_short_video_repeat_its_frames():
    assert uniform_segments(1, 4).tolist() == [[0, 0, 0, 0]]
    assert uniform_segments(3, 8).tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert uniform_segments(16, 8).tolist() == [[1, 3, 5, 7, 9, 11, 13, 15]]


@given(lengths, counts, strides, views, st.none() | st.integers(0, 99))
def test_clips_are_in_range_and_sorted(num_frames, count, stride, num_views, seed):
    generator = None if seed is None else seeded(seed)
    indices = dense_views(num_frames, count, stride, num_views=num_views, generator=generator)
    holds_in_range(indices, num_frames, num_views, count)


@given(lengths, counts, strides, views, st.none() | st.integers(0, 99))
def test_clips_are_a_start_and_steps_held_at_the_end(num_frames, count, stride, num_views, seed):
    generator = None if seed is None else seeded(seed)
    for view in dense_views(num_frames, count, stride, num_views=num_views, generator=generator).tolist():
        assert view == [min(view[0] + floor(i * stride), num_frames - 1) for i in range(count)]
        assert view[0] <= max(0, num_frames - 1 - floor((count - 1) * stride))


def test_clips_in_testing_are_spread_from_end_to_end():
    assert dense_views(100, 4, 10).tolist() == [[34, 44, 54, 64]]
    spread = dense_views(100, 4, 10, num_views=3)
    assert spread[:, 0].tolist() == [0, 35, 69]
    assert spread[-1, -1] == 99


def test_random_clips_start_everywhere():
    starts = dense_views(10, 4, 2, num_views=2000, generator=seeded(0))[:, 0]
    assert starts.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("sample", [uniform_segments, lambda *n, **k: dense_views(*n, 4, **k)])
def test_the_generator_decides(sample):
    def draw(seed):
        return sample(300, 8, num_views=2, generator=seeded(seed))

    torch.manual_seed(0)
    first = draw(1)
    torch.manual_seed(7)
    assert torch.equal(first, draw(1))
    assert not torch.equal(first, draw(2))
    assert torch.equal(sample(300, 8), sample(300, 8))


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        uniform_segments(0, 8)
    with pytest.raises(ValueError, match="num_views must be at least 1, got 0"):
        dense_views(9, 8, 1, num_views=0)
    with pytest.raises(ValueError, match="stride must be above 0, got 0"):
        dense_views(9, 8, 0)


def clocks():
    rates = st.sampled_from([0.5, 12.0, 25.0, 30000 / 1001, 60.0])
    ticks = st.sampled_from([0, 1, 512])
    return st.builds(_clock, lengths, rates, ticks, st.sampled_from([-1, 0, 1]))


def _clock(num_frames, rate, step, wrong):
    """A container whose header may count one frame too many or too few, or none."""
    stated = max(0, num_frames + wrong)
    return Clock(
        stamps=torch.arange(num_frames) * max(step, 1),
        rate=rate,
        stated_frames=stated,
        stated_ticks=stated * step,
    )


@given(clocks(), counts, st.integers(1, 40), views, st.none() | st.integers(0, 99))
def test_views_by_the_clock_are_in_range_and_sorted(clock, count, stride, num_views, seed):
    about = {"target_fps": 30.0, "num_views": num_views}
    generator = None if seed is None else seeded(seed)
    starts = openvclip_starts(clock, count, stride, generator=generator, **about)
    indices = openvclip_views(clock, count, stride, starts, target_fps=30.0)
    if (
        stride * count / 30 * clock.rate < 1
    ):  # by the formula a view shorter than a frame ends before it starts
        indices = indices.flip(-1)
    holds_in_range(indices, len(clock.stamps), num_views, count)


@given(lengths, counts, st.integers(0, 40), views, st.none() | st.integers(0, 99))
def test_m2clips_views_are_in_range_and_sorted(num_frames, count, stride, num_views, seed):
    about = {"num_views": num_views, "generator": None if seed is None else seeded(seed)}
    if stride:
        indices = m2clip_views(num_frames, count, stride, **about)
    else:
        indices = m2clip_segments(num_frames, count, **about)
    holds_in_range(indices, num_frames, num_views, count)


@pytest.mark.parametrize("ticks", [0, 512])
def test_a_view_covers_the_same_time_at_every_frame_rate(ticks):
    seconds = []
    for rate in (15.0, 30.0, 60.0):
        count = int(20 * rate)
        clock = Clock(stamps=torch.arange(count) * 512, rate=rate, stated_ticks=ticks * count)
        (view,) = openvclip_views(clock, 8, 16, [0.0], target_fps=30.0)
        seconds.append(float(view[5]) / rate)
    assert max(seconds) - min(seconds) < 0.1


def test_frames_are_taken_by_their_stamps_whatever_order_they_come_in():
    stamps = torch.tensor([1, 2, 4, 3, 5, 7, 6, 8])
    clock = Clock(stamps=stamps, rate=1.0)
    chosen = openvclip_views(clock, 8, 1, [0.0], target_fps=1.0)[0]
    assert stamps[chosen].tolist() == sorted(stamps.tolist())
    assert by_stamp(torch.tensor([3, 1, 3, 2])).tolist() == [1, 3, 2]


def test_a_part_of_a_video_is_sampled_like_a_file_of_its_own():
    clock = Clock(stamps=torch.arange(300) * 512, rate=30.0, stated_frames=300, stated_ticks=300 * 512)
    own = Clock(stamps=torch.arange(200) * 512, rate=30.0, stated_frames=200, stated_ticks=200 * 512)
    part = clock.slice(50, 250)
    assert clock.slice(0, 300) is clock
    starts = openvclip_starts(part, 8, 16, target_fps=30.0, num_views=3)
    assert starts == openvclip_starts(own, 8, 16, target_fps=30.0, num_views=3)
    found, expected = (openvclip_views(c, 8, 16, starts, target_fps=30.0) for c in (part, own))
    assert torch.equal(found, expected)
