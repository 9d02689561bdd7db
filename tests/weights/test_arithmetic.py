from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vactk.errors import VactkError
from vactk.weights import streaming
from vactk.weights.arithmetic import (
    MergeTerm,
    average,
    check_fits,
    interpolation,
    mixed_entries,
    mixed_tensor,
    select,
    task_vector,
)
from vactk.weights.streaming import DictTensors


def parts(*tensors):
    return [MergeTerm(chr(65 + i), DictTensors({"w": tensor})) for i, tensor in enumerate(tensors)]


def mix(weights, *tensors):
    return mixed_tensor(parts(*tensors), "w", lambda _: weights)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 64)


@pytest.mark.parametrize("alpha", [-0.5, 0, 0.3, 0.5, 1, 1.5])
@pytest.mark.parametrize("shape", [(), (5,), (9, 7), (2, 3, 4)])
def test_interpolation_is_the_formula(alpha, shape):
    a, b = torch.randn(shape), torch.randn(shape)
    torch.testing.assert_close(mix(interpolation(alpha), a, b), (1 - alpha) * a + alpha * b)


def test_both_ends_are_the_files_to_the_last_bit_and_nothing_else_is_read():
    a, b = torch.randn(30, 3), torch.randn(30, 3)
    assert torch.equal(mix(interpolation(0), a, torch.full_like(a, torch.nan)), a)
    assert torch.equal(mix(interpolation(1), torch.full_like(a, torch.nan), b), b)


@pytest.mark.parametrize("weights", [interpolation(0.3), average(2), [0.1, 0.9]])
def test_what_all_share_stays_to_the_last_bit(weights):
    a = torch.randn(50)
    assert torch.equal(mix(weights, a, a.clone()), a)


def test_averages_and_task_vectors():
    a, b, c = (torch.randn(6, 4) for _ in range(3))
    torch.testing.assert_close(mix(average(3), a, b, c), (a + b + c) / 3)
    torch.testing.assert_close(mix(task_vector(0.7), a, b, c), a + 0.7 * (b - c))
    torch.testing.assert_close(mix(task_vector(0.7), a, b, a), mix(interpolation(0.7), a, b))


def test_the_wider_type_wins_and_sums_are_taken_in_float32():
    a, b = torch.randn(8).half(), torch.randn(8)
    entries = mixed_entries(parts(a, b), ["w"], lambda _: [0.5, 0.5])
    assert entries["w"].dtype == torch.float32
    torch.testing.assert_close(mix([0.5, 0.5], a, b), (a.float() + b) / 2)
    both = mix([0.5, 0.5], a, b.half())
    assert torch.equal(both, ((a.float() + b.half().float()) / 2).half())
    assert mixed_entries(parts(a, b), ["w"], lambda _: [1, 0])["w"].dtype == torch.float16
    assert mixed_entries(parts(a, a.bfloat16()), ["w"], lambda _: [0.5, 0.5])["w"].dtype == torch.float32


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused_by_file_and_name(value):
    bad = torch.randn(40)
    bad[-1] = value
    with pytest.raises(VactkError, match="'B' holds NaN or infinite values in 'w'; nothing was written"):
        mix(interpolation(0.5), torch.randn(40), bad)
    big = torch.full((3,), 3e38)
    with pytest.raises(VactkError, match="the result would hold NaN or infinite values"):
        mix(interpolation(3), -big, big)
    big = torch.full((3,), 6e4).half()
    with pytest.raises(VactkError, match="the result would hold NaN or infinite values"):
        mix(interpolation(2), -big, big)


def test_whole_numbers_must_agree():
    assert torch.equal(mix(average(2), torch.arange(5), torch.arange(5)), torch.arange(5))
    with pytest.raises(VactkError, match="'w' holds whole numbers that differ between 'A' and the others"):
        mix(average(2), torch.arange(5), torch.arange(5) + 1)


def test_what_does_not_match_is_named():
    part = MergeTerm(
        "b.safetensors", DictTensors({"x": torch.zeros(2), "z": torch.zeros(1), "s": torch.zeros(3)})
    )
    with pytest.raises(VactkError) as error:
        check_fits(part, {"x": (2,), "y": (1,), "s": (4,)}, {"x", "y", "s"}, "'a.safetensors'")
    assert "the architectures of 'a.safetensors' and 'b.safetensors' do not match" in str(error.value)
    assert "only in 'a.safetensors': y" in str(error.value)
    assert "only in 'b.safetensors': z" in str(error.value)
    assert "other shape: s (3,) instead of (4,)" in str(error.value)
    check_fits(part, {"x": (2,)}, {"x", "z", "s"}, "'a'")


def test_weights_of_the_parts_that_are_there():
    assert select([0.25, 0.75], {0: True, 1: False}) == [1.0, 0.0]
    assert select([0.25, 0.25, 0.5], {0: True, 1: False, 2: True}) == pytest.approx([1 / 3, 0, 2 / 3])
    assert select([0.0, 1.0], {0: True, 1: False}) == [1.0, 0.0]
    assert select([1.0, 0.5, -0.5], {0: False, 1: True, 2: True}) == [0.0, 0.5, 0.5]


shares = st.floats(-1.5, 2.5, allow_nan=False)
values = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30)


@given(values, st.integers(0, 2**32 - 1), shares)
def test_interpolation_counts_from_either_side(first, seed, alpha):
    a = torch.tensor(first)
    b = torch.randn(len(first), generator=torch.Generator().manual_seed(seed))
    one, other = mix(interpolation(alpha), a, b), mix(interpolation(1 - alpha), b, a)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-2)


@given(values, st.integers(1, 5), st.integers(1, 6))
def test_a_mixture_does_not_depend_on_how_it_is_cut(first, columns, chunk):
    a = torch.tensor(first).repeat(columns).view(-1, columns)
    b = a.flip(0) + 1
    whole = mix(interpolation(0.3), a, b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "CHUNK_BYTES", chunk * columns * 4)
        assert torch.equal(mix(interpolation(0.3), a, b), whole)


@given(st.lists(values, min_size=2, max_size=4), st.floats(0.0, 1.0))
def test_what_lies_between_stays_between(listed, alpha):
    size = min(len(one) for one in listed)
    a, b, *_ = (torch.tensor(one[:size]) for one in listed)
    found = mix(interpolation(alpha), a, b)
    slack = 1e-5 * (1 + a.abs() + b.abs())
    assert (found >= torch.minimum(a, b) - slack).all()
    assert (found <= torch.maximum(a, b) + slack).all()
