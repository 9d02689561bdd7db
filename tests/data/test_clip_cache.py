from __future__ import annotations

import dataclasses
import json
import os
import pickle

import pytest
import torch

from tests.video.conftest import write_video
from vactk.data.batch_sampler import TrainBatches
from vactk.data.clip_cache import FrameCache, build_cache
from vactk.data.config import DataConfig, DenseSampling, ImageSpec
from vactk.data.records import Record
from vactk.data.video_dataset import VideoDataset, eval_loader, train_loader
from vactk.errors import VactkError
from vactk.video import open_video, sample_video, uniform_segments

PICTURE = ImageSpec(32, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def records(tmp_path):
    paths = [write_video(tmp_path / f"{n}.mp4", num_frames=count) for n, count in enumerate((24, 5, 12))]
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    whole = tuple(Record(video=path, label=0) for path in (*paths, tmp_path / "broken.mp4"))
    return (*whole, Record(video=paths[0], label=1, start_s=1.0, end_s=1.5))


def everything(timeline):
    return torch.arange(timeline.num_frames)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_kept_is_what_decoding_gives(records, tmp_path, workers):
    result = build_cache(records, tmp_path / "cache", num_frames=8, short_side=32, workers=workers)
    assert result.num_videos == 4
    assert list(result.unreadable) == [str(tmp_path / "broken.mp4")]
    cache = FrameCache(tmp_path / "cache")
    for record in (records[0], records[1], records[2], records[4]):
        kept = cache.sample(record, everything)
        expected = sample_video(
            record.video,
            lambda t: everything(t) if t.num_frames <= 8 else uniform_segments(t.num_frames, 8),
            short_side=32,
            start_s=record.start_s,
            end_s=record.end_s,
        )
        assert torch.equal(kept.frames, expected.frames)
        assert torch.equal(kept.times_s, expected.times_s)
        assert kept.num_frames == expected.num_frames
    assert cache.sample(records[3], everything) is None


def test_a_video_shorter_than_the_cache_trains_exactly_as_decoded(records, tmp_path):
    """Where every frame is kept at the stored size, cached training differs in nothing."""
    short = (records[1],)
    with open_video(short[0].video) as video:
        size = min(video.height, video.width)
    build_cache(short, tmp_path / "cache", num_frames=8, short_side=size, workers=0)
    configs = (
        DataConfig(num_frames=4, workers=0),
        DataConfig(num_frames=4, workers=0, cache=str(tmp_path / "cache")),
    )
    one, two = (
        next(
            iter(
                train_loader(
                    VideoDataset(short, c, PICTURE, train=True), TrainBatches(1, 1, seed=1, steps=range(1))
                )
            )
        )
        for c in configs
    )
    assert torch.equal(one.video, two.video)


def test_evaluation_never_reads_from_a_cache(records, tmp_path):
    build_cache(records[:1], tmp_path / "cache", num_frames=2, short_side=32, workers=0)
    cached = DataConfig(num_frames=4, workers=0, cache=str(tmp_path / "cache"))
    plain = DataConfig(num_frames=4, workers=0)
    one, two = (
        next(iter(eval_loader(VideoDataset(records[:1], c, PICTURE, train=False), 1)))
        for c in (cached, plain)
    )
    assert torch.equal(one.video, two.video)


def test_training_reads_the_cache_in_workers_and_decodes_the_rest(records, tmp_path):
    build_cache(records[:1], tmp_path / "cache", num_frames=4, short_side=32, workers=0)
    config = DataConfig(num_frames=2, workers=2, cache=str(tmp_path / "cache"))
    dataset = VideoDataset(records[:3], config, PICTURE, train=True)
    batches = list(train_loader(dataset, TrainBatches(3, 3, seed=0, steps=range(2))))
    assert [len(batch.indices) for batch in batches] == [3, 3]
    again = pickle.loads(pickle.dumps(dataset.cache))
    assert torch.equal(
        again.sample(records[0], everything).frames, dataset.cache.sample(records[0], everything).frames
    )


def test_a_file_that_was_replaced_is_not_taken_from_the_cache(records, tmp_path):
    build_cache(records[:1], tmp_path / "cache", num_frames=4, short_side=32, workers=0)
    os.utime(records[0].video, ns=(1, 1))
    cache = FrameCache(tmp_path / "cache")
    assert cache.sample(records[0], everything) is None
    assert cache.sample(dataclasses.replace(records[0], start_s=0.5), everything) is None


def test_caches_that_cannot_be_used_are_refused(records, tmp_path):
    folder = tmp_path / "cache"
    with pytest.raises(
        VactkError, match=r"there is no frame cache in '.*cache'; build it with `vactk data cache"
    ):
        FrameCache(folder)
    build_cache(records[:1], folder, num_frames=4, short_side=16, workers=0)
    with pytest.raises(
        VactkError, match=r"has frames of 16 pixels, fewer than the model's 32; rebuild it with --short-side"
    ):
        VideoDataset(records, DataConfig(cache=str(folder)), PICTURE, train=True)
    with pytest.raises(VactkError, match=r"works with data.sampling=uniform only"):
        DataConfig(cache=str(folder), sampling=DenseSampling())
    with (folder / "frames.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(VactkError, match=r"bytes, expected .*; build it again"):
        FrameCache(folder)
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "version": 0}))
    with pytest.raises(VactkError, match="of another version of vactk"):
        FrameCache(folder)
