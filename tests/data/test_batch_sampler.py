from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vactk.data.batch_sampler import TrainBatches, derive_seed, num_steps

sizes = st.integers(1, 40)


def batches(num_records, batch_size, start, stop, **parts):
    return list(TrainBatches(num_records, batch_size, seed=7, steps=range(start, stop), **parts))


@given(sizes, sizes, st.integers(1, 4))
def test_every_record_comes_once_in_every_pass(num_records, batch_size, epochs):
    steps = -(-num_records * epochs // batch_size)
    keys = [key for batch in batches(num_records, batch_size, 0, steps) for key in batch]
    counts = Counter(key for key in keys if key[0] < epochs)
    assert counts == {(epoch, index): 1 for epoch in range(epochs) for index in range(num_records)}


@given(sizes, sizes, st.integers(0, 20), st.integers(0, 20))
def test_a_batch_is_the_same_however_one_got_there(num_records, batch_size, start, more):
    whole = batches(num_records, batch_size, 0, start + more)
    assert batches(num_records, batch_size, start, start + more) == whole[start:]


@given(sizes, st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_processes_and_micro_batches_share_one_batch(num_records, size, world, micro):
    whole = batches(num_records, size * world * micro, 0, 6)
    shares = [
        batches(num_records, size * world * micro, 0, 6, rank=rank, world=world, micro_batches=micro)
        for rank in range(world)
    ]
    for step, batch in enumerate(whole):
        lists = [shares[rank][step * micro + i] for i in range(micro) for rank in range(world)]
        assert [key for keys in lists for key in keys] == batch


def test_passes_are_shuffled_differently_and_seeds_too():
    one, two = (tuple(index for _, index in batch) for batch in batches(50, 50, 0, 2))
    assert len({one, two, tuple(range(50))}) == 3
    other = TrainBatches(50, 50, seed=8, steps=range(1))
    assert tuple(index for _, index in next(iter(other))) != one


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ValueError, match="batch size 10 is not divisible by 3 processes x 1"):
        TrainBatches(5, 10, seed=0, steps=range(1), world=3)


def test_num_steps_covers_the_epochs():
    assert num_steps(100, 32, 2) == 6
    assert num_steps(3, 32, 0.1) == 1


def test_derived_seeds_differ_by_every_part():
    seeds = {derive_seed(*parts) for parts in [(0, 0), (0, 1), (1, 0), (0,), (0, 0, 1), (1, 1)]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), sizes, st.integers(0, 20))
def test_classes_are_drawn_equally_often_and_their_videos_too(labels, batch_size, start):
    steps = start + -(-6 * len(labels) // batch_size)
    whole = batches(len(labels), batch_size, 0, steps, labels=labels)
    assert batches(len(labels), batch_size, start, steps, labels=labels) == whole[start:]
    keys = [key for batch in whole for key in batch]
    assert len(set(keys)) == len(keys)  # no video is read twice with the same crop
    classes = len(set(labels))
    rounds = len(keys) // classes
    drawn = Counter(labels[index] for _, index in keys[: rounds * classes])
    assert set(drawn.values()) == {rounds}
    for label in set(labels):
        own = Counter(index for _, index in keys if labels[index] == label)
        if len(own) == labels.count(label):
            assert max(own.values()) - min(own.values()) <= 1
