"""The predictor gives what `vactk zeroshot` prints, and what the model's own embeddings say."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import vactk
from vactk.cli.app import app
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split
from vactk.models.video_model import Heads

LABELS = ("star moving left", "key moving right", "moon")


@pytest.fixture(scope="module")
def model():
    return vactk.load_model("toy", device="cpu", settings={"data.workers": 0})


@pytest.fixture
def folder(monkeypatch, tmp_path):
    split = Split(classes=LABELS[:2], videos_per_class=2, seed=2)
    monkeypatch.setitem(clips.SPLITS, "unseen", split)
    return clips.load_shapes("unseen", root=tmp_path).records[0].video.parent


def test_predictions_are_those_of_the_command_and_of_the_embeddings(model, folder):
    paths = sorted(folder.glob("*.mp4"))
    found = vactk.Predictor(model, LABELS, templates="a video of {}").predict(paths)
    arguments = [
        "zeroshot",
        folder,
        "--labels",
        ",".join(LABELS),
        "--backbone",
        "toy",
        "--workers",
        0,
        "--json",
    ]
    printed = json.loads(CliRunner().invoke(app, list(map(str, arguments))).stdout)["predictions"]
    cosines = model.embed_video(paths) @ model.embed_text([f"a video of {label}" for label in LABELS]).T
    probabilities = (model.video_clip.logit_scale.detach() * cosines).softmax(dim=-1)
    assert [str(one.video) for one in found] == [one["video"] for one in printed if "mp4" in one["video"]]
    for one, line, cosine, own in zip(found, printed, cosines, probabilities, strict=True):
        assert [vars(label) for label in one.labels] == line["labels"]
        assert {label.label: label.similarity for label in one.labels} == pytest.approx(
            dict(zip(LABELS, cosine.tolist(), strict=True)), abs=1e-5
        )
        assert {label.label: label.probability for label in one.labels} == pytest.approx(
            dict(zip(LABELS, own.tolist(), strict=True)), abs=1e-4
        )
        assert one.label == LABELS[int(own.argmax())]
        assert (one.probability, one.similarity) == (one.labels[0].probability, one.labels[0].similarity)


def test_unreadable_files_are_objects_and_the_rest_is_predicted(model, folder, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_text("<html>")
    video = next(folder.glob("*.mp4"))
    found = vactk.Predictor(model, LABELS).predict([broken, str(video)])
    assert [one.video for one in found] == [video]
    assert len(found) == 1
    assert [(one.video, one.record_index) for one in found.failures] == [(str(broken), 0)]
    assert vactk.Predictor(model, LABELS).predict(broken).predictions == ()


def test_the_class_head_answers_for_its_own_classes_in_any_order(folder):
    config = vactk.ModelConfig(backbone=vactk.BackboneConfig(name="toy"))
    torch.manual_seed(0)
    model = vactk.new_model(config, Heads(classes=LABELS, class_head=True))
    settings = vactk.EvalConfig(device="cpu")
    video = next(folder.glob("*.mp4"))

    def ask(by, labels=None):
        (found,) = vactk.Predictor(model, labels, by=by, config=settings).predict(video)
        return {label.label: label.probability for label in found.labels}

    head, words = ask("class_head"), ask("similarity")
    assert set(head) == set(LABELS)
    assert ask("class_head", LABELS[::-1]) == pytest.approx(head)
    assert ask("ensemble") == pytest.approx({name: (head[name] + words[name]) / 2 for name in LABELS})
    pair = ask("class_head", LABELS[:2])
    assert pair[LABELS[0]] == pytest.approx(head[LABELS[0]] / (head[LABELS[0]] + head[LABELS[1]]))
    with pytest.raises(
        vactk.VactkError, match="'ensemble' needs a checkpoint whose class head was trained on all"
    ):
        ask("ensemble", ("star moving left", "waving"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "pass labels: the model was not trained on labelled classes"),
        ("star,key", "labels are a list"),
        (["star", " "], "a label is text of at least one letter, got ' '"),
        (["star", 3], "a label is text of at least one letter, got 3"),
        (["brush_hair", "brush hair"], "are the same in words: 'brush hair'"),
    ],
)
def test_wrong_labels_are_named(model, labels, message):
    with pytest.raises(vactk.VactkError, match=message):
        vactk.Predictor(model, labels)


def test_nothing_to_predict_is_said(model):
    with pytest.raises(vactk.VactkError, match="the list of videos is empty"):
        vactk.Predictor(model, LABELS).predict([])
