from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vactk.data.batch_sampler import num_steps
from vactk.errors import VactkError
from vactk.train.weight_averaging import AverageConfig, WeightAverage


def values(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(3, 4, generator=generator).to(dtype),
        "b": torch.randn((), generator=generator).to(dtype),
    }


def parameters(dtype=torch.float32):
    return {name: nn.Parameter(value) for name, value in values(0, dtype).items()}


def put(own, new):
    with torch.no_grad():
        for name, value in new.items():
            own[name].copy_(value)


def test_the_mean_is_uniform_and_in_float32():
    own = parameters(torch.bfloat16)
    average = WeightAverage(own)
    for seed in range(1, 8):
        put(own, values(seed, torch.bfloat16))
        average.update()
    for name, mean in average.mean.items():
        expected = torch.stack([values(seed, torch.bfloat16)[name].double() for seed in range(1, 8)]).mean(0)
        assert mean.dtype == torch.float32
        torch.testing.assert_close(mean.double(), expected, rtol=1e-6, atol=1e-6)


def test_it_goes_on_from_a_saved_state_to_the_last_bit():
    own, other = parameters(), parameters()
    whole, first, second = WeightAverage(own), WeightAverage(own), WeightAverage(other)
    for seed in range(1, 6):
        put(own, values(seed))
        whole.update()
        if seed <= 3:
            first.update()
    second.load_state_dict(first.state_dict())
    for seed in (4, 5):
        put(other, values(seed))
        second.update()
    assert second.count == whole.count == 5
    assert all(torch.equal(second.mean[name], whole.mean[name]) for name in own)


def test_the_weights_come_back_even_after_an_error():
    own = parameters()
    average = WeightAverage(own)
    average.update()
    put(own, values(5))
    with pytest.raises(RuntimeError), average.in_place():
        assert all(torch.equal(own[name], average.mean[name]) for name in own)
        raise RuntimeError
    assert all(torch.equal(own[name], values(5)[name]) for name in own)


def steps(config, num_records, epochs, batch_size=10):
    return sorted(config.steps(epochs, lambda number: num_steps(num_records, batch_size, number)))


def test_which_steps_are_averaged():
    assert steps(AverageConfig(), 100, 3) == []
    assert steps(AverageConfig(every_epochs=0.5), 100, 1.7) == [5, 10, 15, 17]
    assert steps(AverageConfig(every_epochs=0.001), 100, 0.5) == [1, 2, 3, 4, 5]
    assert steps(AverageConfig(every_epochs=1, start_epoch=2), 100, 4) == [20, 30, 40]
    assert steps(AverageConfig(every_epochs=1, start_epoch=9), 100, 4) == [40]
    assert steps(AverageConfig(every_steps=7), 100, 2) == [7, 14, 20]
    assert steps(AverageConfig(every_steps=5, start_epoch=1), 100, 2) == [10, 15, 20]


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 30), st.integers(0, 5))
def test_every_epoch_is_averaged_once(num_records, batch_size, epochs, start):
    found = steps(AverageConfig(every_epochs=1, start_epoch=start), num_records, epochs, batch_size)
    ends = {num_steps(num_records, batch_size, epoch) for epoch in range(max(1, start), epochs + 1)}
    assert found == sorted(ends | {num_steps(num_records, batch_size, epochs)})


@pytest.mark.parametrize(
    "wrong", [{"every_epochs": -1}, {"start_epoch": -1}, {"every_epochs": 1, "every_steps": 1}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(VactkError):
        AverageConfig(**wrong)
