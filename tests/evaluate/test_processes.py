"""Evaluation on several processes gives what one gives: every video once, and the same numbers."""

from __future__ import annotations

import pytest
import torch

from tests.processes import run_processes
from vactk.data.config import DataConfig
from vactk.data.records import Record, VideoSet
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split
from vactk.distributed import make_accelerator
from vactk.errors import VactkError
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.protocol_splits import split_data
from vactk.evaluate.zero_shot import score_protocol, summarize
from vactk.models.backbone import BackboneConfig
from vactk.models.video_model import ModelConfig, new_model


@pytest.fixture(scope="module")
def model():
    return new_model(ModelConfig(backbone=BackboneConfig(name="toy")))


@pytest.fixture
def videos(monkeypatch, tmp_path):
    """Seven videos, of which the first and the last cannot be read."""
    split = Split(classes=("star moving left", "key moving up"), videos_per_class=3, seed=4)
    monkeypatch.setitem(clips.SPLITS, "seen", split)
    whole = clips.load_shapes("seen", root=tmp_path)
    (tmp_path / "page.mp4").write_text("<html>")
    broken = Record(video=tmp_path / "page.mp4", label=0)
    records = (broken, *whole.records[:5], broken)
    return VideoSet(name="x", split="y", classes=whole.classes, words=whole.words, records=records)


def measure(model, videos, world, **settings):
    def work(rank):
        accelerator = make_accelerator("cpu", "fp32")
        config = EvalConfig(data=DataConfig(num_frames=2, workers=0), templates="object", batch_size=2)
        data = split_data(videos)
        try:
            scores = score_protocol(model, data, config, accelerator, **settings).scores
        except VactkError as error:
            return str(error)
        return scores, summarize(data, scores)

    return run_processes(world, work)


def test_uneven_shards_give_the_numbers_of_one_process(model, videos):
    ((alone, numbers),) = measure(model, videos, 1)
    assert alone.indices.tolist() == [1, 2, 3, 4, 5]
    assert [failure.record_index for failure in alone.failures] == [0, 6]
    for world in (2, 3, 5):
        for scores, found in measure(model, videos, world):  # every process has all of it
            assert scores.indices.tolist() == alone.indices.tolist()
            assert scores.failures == alone.failures
            assert found == numbers
            for name, values in alone.probabilities.items():
                torch.testing.assert_close(scores.probabilities[name], values, rtol=1e-5, atol=1e-6)


def test_more_processes_than_videos(model, videos):
    few = VideoSet(
        name="x", split="y", classes=videos.classes, words=videos.words, records=videos.records[1:3]
    )
    ((_, alone),) = measure(model, few, 1)
    assert all(found == alone for _, found in measure(model, few, 3))


def test_what_is_too_much_does_not_depend_on_the_number_of_processes(model, videos):
    for world in (1, 4):  # of four, two have a broken video each
        assert all(not isinstance(found, str) for found in measure(model, videos, world, max_failed=0.3))
        for message in measure(model, videos, world, max_failed=0.2):
            assert message.startswith("2 of 7 videos could not be read, more than --max-failed allows")
