from __future__ import annotations

import faulthandler
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.video.conftest import write_video
from vactk.config import build
from vactk.data import video_dataset
from vactk.data.batch_sampler import TrainBatches
from vactk.data.config import (
    DataConfig,
    DenseSampling,
    ImageSpec,
    M2CLIPSampling,
    OpenVCLIPSampling,
    UniformSampling,
)
from vactk.data.records import Record
from vactk.data.video_dataset import VideoDataset, eval_loader, train_loader
from vactk.errors import VactkError
from vactk.video import Timeline
from vactk.video.decoders import stated_clock
from vactk.video.sampling import Clock

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
            assert torch.equal(one.indices, other.indices)


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
    assert torch.cat([batch.indices for batch in batches]).tolist() == [0, 1, 2, 4, 5]
    (failure,) = [failure for batch in batches for failure in batch.failures]
    assert failure.record_index == 3
    reason = "reading it took over 1 s" if trouble == "hang" else r"the decoder crashed (SIGSEGV)"
    assert failure.message == f"cannot read video '{records[3].video}': {reason}"


def test_a_batch_of_failures_only_is_empty(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (batch,) = eval_loader(dataset((Record(video=tmp_path / "a.mp4"),), workers=1), 4)
    assert len(batch.indices) == 0
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


def timeline(num_frames=400, **stated):
    clock = Clock(stamps=torch.arange(num_frames), rate=25.0, **stated) if stated else None
    return Timeline(times_s=torch.arange(num_frames) / 25, fps=25.0, stated=clock)


@pytest.mark.parametrize(
    ("sampling", "video", "notes"),
    [
        (UniformSampling(), timeline(8), ()),
        (UniformSampling(), timeline(7), (video_dataset.SHORT,)),
        (DenseSampling(stride=4), timeline(29), ()),
        (DenseSampling(stride=4), timeline(28), (video_dataset.SHORT,)),
        (M2CLIPSampling(stride=4), timeline(28), (video_dataset.SHORT,)),
        (M2CLIPSampling(stride=0), timeline(28), ()),
        (OpenVCLIPSampling(), timeline(stated_ticks=400, stated_frames=400), ()),
        (OpenVCLIPSampling(), timeline(90, stated_ticks=90, stated_frames=90), (video_dataset.SHORT,)),
        (OpenVCLIPSampling(), timeline(), (video_dataset.UNTIMED,)),
        (OpenVCLIPSampling(), timeline(rate_is_stated=False), (video_dataset.NO_RATE,)),
        (OpenVCLIPSampling(), timeline(stated_ticks=400), (video_dataset.UNCOUNTED,)),
    ],
)
def test_what_had_to_be_chosen_is_told(sampling, video, notes):
    assert video_dataset.sampling_notes(sampling, video, 8) == notes


def test_views_start_as_the_release_has_it_for_the_dataset():
    released, chosen = OpenVCLIPSampling(), OpenVCLIPSampling(starts="container")
    for sampling, dataset, starts in (
        (released, "hmdb51", "spread"),
        (released, "hmdb51/novel", "spread"),
        (released, "ucf101", "container"),
        (chosen, "hmdb51", "container"),
    ):
        found = video_dataset.released_sampling(DataConfig(sampling=sampling), dataset)
        assert found == DataConfig(sampling=OpenVCLIPSampling(starts=starts))
    assert video_dataset.released_sampling(DataConfig(), "hmdb51") == DataConfig()
    video = timeline(300, stated_ticks=300, stated_frames=300)
    spread = OpenVCLIPSampling(starts="spread").indices(video, 8, 3, train=False)
    assert spread[-1, 0] == 192  # twice half of what a view of 107 frames leaves, rounded down
    assert released.indices(video, 8, 3, train=False)[-1, 0] == 137


def test_choices_are_counted_over_the_videos(records):
    (batch,) = eval_loader(dataset(records, workers=0, sampling=DenseSampling(stride=30)), 8)
    assert batch.notes == [video_dataset.SHORT] * len(records)


@pytest.mark.parametrize("rate", [None, 0])
def test_where_a_header_has_no_frame_rate_the_time_stamps_give_it(rate):
    stream = SimpleNamespace(average_rate=rate, frames=0, duration=None)
    clock = stated_clock(stream, [0, 40, 80, 240], np.array([0.0, 0.04, 0.08, 0.24]))
    assert (clock.rate, clock.rate_is_stated) == (pytest.approx(12.5), False)
    assert stated_clock(stream, [0, None], np.array([0.0, 0.04])) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "openvclip", "stride": 0}, "stride must be at least 1"),
        ({"name": "openvclip", "fps": 0}, "fps above 0, got 16 and 0"),
        ({"name": "openvclip", "starts": "ends"}, "must be one of release, container, spread"),
        ({"name": "m2clip", "stride": -1}, "stride must be at least 0, got -1"),
    ],
)
def test_samplings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(VactkError, match=message):
        build(DataConfig, {"sampling": wrong})
