"""Protocols evaluated with the toy CLIP; the oracle is a loop over each split's videos."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from tests.data import trees
from vactk.data.class_subsets import with_classes
from vactk.data.config import DataConfig
from vactk.data.records import VideoSet
from vactk.data.video_dataset import VideoDataset
from vactk.distributed import make_accelerator
from vactk.errors import VactkError
from vactk.evaluate.classifier import class_embeddings
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.protocol import find_protocol
from vactk.evaluate.protocol_splits import load_protocol_data, split_data
from vactk.evaluate.scoring import image_spec
from vactk.evaluate.zero_shot import evaluate_protocol, score_protocol
from vactk.models.backbone import BackboneConfig
from vactk.models.temporal.registry import TEMPORAL
from vactk.models.video_model import ModelConfig, new_model

CONFIG = EvalConfig(data=DataConfig(num_frames=2, workers=0), templates="openvclip", batch_size=4)


@pytest.fixture(scope="module")
def model():
    return new_model(ModelConfig(backbone=BackboneConfig(name="toy")))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Videos that show different things, one of them broken."""
    folder = tmp_path_factory.mktemp("hmdb51")
    trees.hmdb51(folder, make=trees.tiny_video)
    sorted((folder / "videos/kick").iterdir())[1].write_bytes(b"broken")
    return folder


def run(model, name, root, **settings):
    data = load_protocol_data(find_protocol(name), root)
    return evaluate_protocol(model, data, CONFIG, make_accelerator("cpu", "fp32"), **settings)


def naive(model, data, split, **settings) -> tuple[float, ...]:
    """Top-1, top-5 and the loss of the split as a dataset of its own, by a loop over its videos."""
    whole = dataclasses.replace(data.videos, records=tuple(data.videos.records[i] for i in split.records))
    videos: VideoSet = with_classes(dataclasses.replace(whole, missing=frozenset()), split.classes)
    classes = class_embeddings(model, videos.words, CONFIG.prompts, torch.device("cpu"))
    dataset = VideoDataset(videos.records, CONFIG.data, image_spec(model), train=False)
    ranks, losses = [], []
    for index, record in enumerate(videos.records):
        views = dataset[0, index].views
        if views is not None:
            with torch.no_grad():
                frames = model.video_clip.video_features(views).frames.mean(dim=1)
            cosines = (F.normalize(frames, dim=-1) @ classes.T)[0]
            ranks.append(int((cosines > cosines[record.label]).sum()))
            logits = cosines * model.video_clip.logit_scale.detach()
            losses.append(float(F.cross_entropy(logits, torch.tensor(record.label))))
        elif settings["unreadable"] == "wrong":
            ranks.append(10**6)
    accuracies = (100 * sum(rank < k for rank in ranks) / len(ranks) if ranks else 0.0 for k in (1, 5))
    return (*accuracies, sum(losses) / len(losses) if losses else 0.0)


@pytest.mark.parametrize("name", ["hmdb51/ep1", "hmdb51/ep2", "hmdb51/ep3", "hmdb51/base-to-novel"])
@pytest.mark.parametrize("unreadable", ["wrong", "skip"])
def test_every_split_is_what_it_would_be_alone(model, root, name, unreadable):
    result = run(model, name, root, unreadable=unreadable)
    for found, split in zip(result.splits, result.data.splits, strict=True):
        assert tuple(found.accuracy["similarity"].values()) == pytest.approx(
            naive(model, result.data, split, unreadable=unreadable), rel=1e-4
        )
        assert found.num_videos == len(split.records) - (found.num_unreadable if unreadable == "skip" else 0)
    values = torch.tensor([split.accuracy["similarity"]["top1"] for split in result.splits])
    answer = result.to_json()
    assert answer["top1"] == pytest.approx(float(values.mean()))
    if name == "hmdb51/base-to-novel":
        base, novel = values.tolist()
        expected = 2 * base * novel / (base + novel) if base + novel else 0.0
        assert answer["harmonic_mean"] == pytest.approx(expected)
    elif len(values) > 1:
        assert answer["top1_sd"] == pytest.approx(float(values.std()), abs=1e-5)
    else:
        assert "top1_sd" not in answer
    assert all(failure.video.endswith(".avi") for failure in result.failures)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A protocol of one split: a video of each class."""
    folder = tmp_path_factory.mktemp("few")
    data = load_protocol_data(find_protocol("hmdb51/ep2"), trees.hmdb51(folder, make=trees.tiny_video))
    videos = dataclasses.replace(data.videos, records=data.videos.records[::4])
    split = dataclasses.replace(data.splits[0], records=(0, 1, 2))
    return dataclasses.replace(data, videos=videos, splits=(split,))


@pytest.mark.parametrize("similarity", ["video", "frames"])
@pytest.mark.parametrize("temporal", TEMPORAL)
def test_a_protocol_scores_as_the_dataset_does(few, monkeypatch, similarity, temporal):
    config = ModelConfig(
        backbone=BackboneConfig(name="toy"), temporal=TEMPORAL[temporal](), similarity=similarity
    )
    model = new_model(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.video_clip.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    found = []

    def kept(*args, **settings):
        evaluated = score_protocol(*args, **settings)
        found.append(evaluated.scores)
        return evaluated

    monkeypatch.setattr("vactk.evaluate.zero_shot.score_protocol", kept)
    accelerator = make_accelerator("cpu", "fp32")
    answers = []
    for view_mean, views in itertools.product(("probabilities", "logits"), (1, 2)):
        data = DataConfig(num_frames=3, views=views, view_mean=view_mean, workers=0)
        config = dataclasses.replace(CONFIG, data=data)
        by_protocol, by_split = (
            evaluate_protocol(model, d, config, accelerator) for d in (few, split_data(few.videos))
        )
        assert by_protocol.accuracy == by_split.accuracy
        assert by_protocol.data.hash == by_split.data.hash
        (first,), (second,) = (scores.probabilities.values() for scores in found[-2:])
        assert torch.equal(first, second)
        answers.append(first)
    assert not torch.equal(answers[1], answers[3])  # the views are averaged as told


def test_a_broken_video_and_a_missing_one_count_as_wrong_and_are_listed(model, tmp_path):
    root = trees.hmdb51(tmp_path, make=trees.tiny_video)
    first, second = sorted((root / "videos/brush_hair").iterdir())[:2]
    first.write_bytes(b"broken")
    second.unlink()
    result = run(model, "hmdb51/ep2", root)
    assert result.splits[0].num_videos == 12
    assert result.splits[0].num_unreadable == 2
    assert {failure.video for failure in result.failures} == {
        str(first),
        str(root / "brush_hair" / second.name),
    }
    assert result.to_json()["missing"] == 1
    assert result.splits[0].accuracy["similarity"]["top5"] == pytest.approx(100 * 10 / 12)
    skipping = run(model, "hmdb51/ep2", root, unreadable="skip")
    assert (skipping.splits[0].num_videos, skipping.splits[0].accuracy["similarity"]["top5"]) == (10, 100)
    assert (result.to_json()["num_videos"], skipping.to_json()["num_videos"]) == (12, 10)


def test_too_many_unreadable_videos_stop_the_run(model, tmp_path):
    root = trees.hmdb51(tmp_path)  # all of them empty files
    with pytest.raises(
        VactkError, match=r"of 12 videos could not be read, more than --max-failed allows; the last"
    ):
        run(model, "hmdb51/ep2", root, max_failed=0.5)
    for path in sorted((root / "videos/kick").iterdir()):
        path.unlink()
    with pytest.raises(
        VactkError, match=r"4 of 12 videos of hmdb51 are not on disk, more than --max-failed 0.2"
    ):
        run(model, "hmdb51/ep2", root, max_failed=0.2)
