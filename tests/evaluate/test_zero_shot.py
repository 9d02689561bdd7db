"""Protocols measured with the toy CLIP; the oracle measures each draw on its own."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from tests.data import trees
from vactk.data.class_subsets import with_classes
from vactk.data.config import DataConfig
from vactk.data.records import VideoSet
from vactk.distributed import make_accelerator
from vactk.errors import VactkError
from vactk.evaluate.protocol import find_protocol
from vactk.evaluate.protocol_splits import load_protocol_data
from vactk.evaluate.scoring import score_videos
from vactk.evaluate.zero_shot import evaluate, evaluate_protocol, score_classes
from vactk.models.backbone import BackboneConfig
from vactk.models.temporal.registry import TEMPORAL
from vactk.models.video_model import ModelConfig, new_model

CONFIG = DataConfig(num_frames=2, workers=0)
TEMPLATES = ("{}", "a {}")


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
    plan = load_protocol_data(find_protocol(name), root)
    accelerator = make_accelerator("cpu", "fp32")
    return evaluate_protocol(model, plan, CONFIG, accelerator, templates=TEMPLATES, batch_size=4, **settings)


def alone(model, plan, draw, **settings) -> tuple[float, float]:
    """The draw as a dataset of its own."""
    whole = dataclasses.replace(plan.videos, records=tuple(plan.videos.records[p] for p in draw.places))
    videos: VideoSet = with_classes(dataclasses.replace(whole, missing=frozenset()), draw.classes)
    accelerator = make_accelerator("cpu", "fp32")
    scores = score_classes(model, videos, CONFIG, accelerator, templates=TEMPLATES, batch_size=3)
    found = evaluate(videos, scores, **settings).accuracy["similarity"]
    return found["top1"], found["top5"]


@pytest.mark.parametrize("name", ["hmdb51/ep1", "hmdb51/ep2", "hmdb51/ep3", "hmdb51/base-to-novel"])
@pytest.mark.parametrize("unreadable", ["wrong", "skip"])
def test_every_draw_is_what_it_would_be_alone(model, root, name, unreadable):
    result = run(model, name, root, unreadable=unreadable)
    for found, draw in zip(result.draws, result.plan.draws, strict=True):
        assert (found.top1, found.top5) == pytest.approx(
            alone(model, result.plan, draw, unreadable=unreadable)
        )
        assert found.num_videos == len(draw.places) - (found.num_unreadable if unreadable == "skip" else 0)
    values = torch.tensor([draw.top1 for draw in result.draws])
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
    """A plan of one draw: a video of each class."""
    folder = tmp_path_factory.mktemp("few")
    plan = load_protocol_data(find_protocol("hmdb51/ep2"), trees.hmdb51(folder, make=trees.tiny_video))
    videos = dataclasses.replace(plan.videos, records=plan.videos.records[::4])
    return dataclasses.replace(
        plan, videos=videos, draws=(dataclasses.replace(plan.draws[0], places=(0, 1, 2)),)
    )


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
        found.append(score_videos(*args, **settings))
        return found[-1]

    monkeypatch.setattr("vactk.evaluate.zero_shot.score_videos", kept)
    accelerator = make_accelerator("cpu", "fp32")
    answers = []
    for view_mean, views in itertools.product(("probabilities", "logits"), (1, 2)):
        data = DataConfig(num_frames=3, views=views, view_mean=view_mean, workers=0)
        evaluate_protocol(model, few, data, accelerator, templates=TEMPLATES, batch_size=4)
        (by_protocol,) = found.pop().probabilities.values()
        scores = score_classes(model, few.videos, data, accelerator, templates=TEMPLATES, batch_size=4)
        assert torch.equal(by_protocol, scores.probabilities["similarity"])
        answers.append(by_protocol)
    assert not torch.equal(answers[1], answers[3])  # the views are averaged as told


def test_a_broken_video_and_a_missing_one_count_as_wrong_and_are_listed(model, tmp_path):
    root = trees.hmdb51(tmp_path, make=trees.tiny_video)
    first, second = sorted((root / "videos/brush_hair").iterdir())[:2]
    first.write_bytes(b"broken")
    second.unlink()
    result = run(model, "hmdb51/ep2", root)
    assert result.draws[0].num_videos == 12
    assert result.draws[0].num_unreadable == 2
    assert {failure.video for failure in result.failures} == {
        str(first),
        str(root / "brush_hair" / second.name),
    }
    assert result.to_json()["missing"] == 1
    assert result.draws[0].top5 == pytest.approx(100 * 10 / 12)
    skipping = run(model, "hmdb51/ep2", root, unreadable="skip")
    assert (skipping.draws[0].num_videos, skipping.draws[0].top5) == (10, 100)


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
