from __future__ import annotations

import faulthandler
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.video.conftest import write_video
from vactk.data import video_dataset
from vactk.data.batch_sampler import TrainBatches
from vactk.data.config import DataConfig, ImageSpec
from vactk.data.records import Record
from vactk.data.video_dataset import VideoDataset, eval_loader, train_loader
from vactk.errors import VactkError

PICTURE = ImageSpec(32, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return tuple(Record(video=write_video(folder / f"{n}.mp4", num_frames=8), label=n % 2) for n in range(6))


def dataset(records, *, train=False, **settings):
    return VideoDataset(records, DataConfig(num_frames=2, **settings), PICTURE, train=train)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_read_what_one_process_reads(records, num_workers):
    for train in (True, False):
        alone = dataset(records, train=train, workers=0)
        shared = dataset(records, train=train, workers=num_workers)

        def load(source, train=train):
            if train:
                return list(train_loader(source, TrainBatches(6, 4, seed=3, steps=range(5))))
            return list(eval_loader(source, 4))

        for one, other in zip(load(alone), load(shared), strict=True):
            assert torch.equal(one.video, other.video)
            assert torch.equal(one.places, other.places)


@pytest.mark.parametrize("trouble", ["hang", "crash"])
def test_a_decoder_that_hangs_or_crashes_fails_its_video_alone(records, monkeypatch, trouble):
    read = video_dataset.sample_video

    def decoder(path, *args, **kwargs):
        if path == records[3].video:
            faulthandler.disable()  # pytest's report of the crash
            time.sleep(60) if trouble == "hang" else os.kill(os.getpid(), signal.SIGSEGV)
        return read(path, *args, **kwargs)

    monkeypatch.setattr(video_dataset, "sample_video", decoder)
    batches = list(eval_loader(dataset(records, workers=1, timeout_s=1.0 if trouble == "hang" else 60.0), 4))
    assert torch.cat([batch.places for batch in batches]).tolist() == [0, 1, 2, 4, 5]
    (failure,) = [failure for batch in batches for failure in batch.failures]
    assert failure.place == 3
    reason = "reading it took over 1 s" if trouble == "hang" else r"the decoder crashed (SIGSEGV)"
    assert failure.message == f"cannot read video '{records[3].video}': {reason}"


def test_a_batch_of_failures_only_is_empty(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (batch,) = eval_loader(dataset((Record(video=tmp_path / "a.mp4"),), workers=1), 4)
    assert len(batch.places) == 0
    assert len(batch.failures) == 1


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(VactkError, match="timeout_s must be above 0, got 0"):
        DataConfig(timeout_s=0)


@given(st.integers(0, 40), st.integers(1, 7), st.integers(1, 6))
def test_shards_hold_every_record_once_in_batches_of_the_size(num_records, batch_size, world):
    records = [Record(video=Path(f"{n}.mp4")) for n in range(num_records)]
    dataset = VideoDataset(records, DataConfig(workers=0), ImageSpec(8, (0.5,) * 3, (0.5,) * 3), train=False)
    shards = [list(eval_loader(dataset, batch_size, rank=rank, world=world).batches) for rank in range(world)]
    places = [place for shard in shards for keys in shard for _, place in keys]
    assert sorted(places) == list(range(num_records))
    assert all(len(keys) <= batch_size for shard in shards for keys in shard)
    sizes = [sum(map(len, shard)) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
