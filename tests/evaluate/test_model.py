"""The library's model: what it gives for files, frames and sentences, and what it says of wrong input."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

import vactk
from vactk.data.config import DataConfig
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split
from vactk.evaluate.classifier import class_embeddings


@pytest.fixture(scope="module")
def model():
    return vactk.load_model("toy", device="cpu", settings={"data.workers": 0, "run.eval_batch_size": 2})


@pytest.fixture
def paths(monkeypatch, tmp_path):
    split = Split(classes=("star moving left", "key moving right"), videos_per_class=2, seed=2)
    monkeypatch.setitem(clips.SPLITS, "unseen", split)
    return [record.video for record in clips.load_shapes("unseen", root=tmp_path).records]


def read(path):
    with vactk.open_video(path) as video:
        return video.read(range(video.num_frames))


def test_files_and_their_frames_have_one_embedding(model, paths):
    found = model.embed_video([paths[0], str(paths[1]), read(paths[2])])
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    alone = torch.cat([model.embed_video(read(path)) for path in paths[:3]])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_frames_of_any_size_and_number_are_taken(model):
    frames = [torch.randint(256, (t, 3, h, w), dtype=torch.uint8) for t, h, w in ((1, 90, 70), (30, 64, 200))]
    found = model.embed_video(frames)
    for row, own in zip(found, frames, strict=True):
        chosen = own[((torch.arange(8) + 0.5) * len(own) / 8).long()]  # the centres of equal segments
        with torch.no_grad():
            expected = model.video_clip.encode_video(model.preprocess(chosen))
        torch.testing.assert_close(row, F.normalize(expected, dim=-1)[0], rtol=1e-4, atol=1e-5)


def test_sentences_are_embedded_as_they_are(model):
    sentences = ["a red star", "a key moving right"]
    expected = class_embeddings(model, tuple(sentences), ("{}",), torch.device("cpu"))
    torch.testing.assert_close(model.embed_text(sentences), expected, rtol=1e-4, atol=1e-5)
    assert model.embed_text("a red star").shape == (1, expected.shape[1])
    assert model.tokenize(sentences).dtype == torch.int64


def test_embedding_ignores_dropout_and_keeps_the_mode(model, paths):
    expected = model.embed_video(paths[0])
    model.train(True)
    assert torch.equal(model.embed_video(paths[0]), expected)
    assert model.video_clip.training
    assert model.eval() is model
    assert model.to("cpu") is model
    assert not model.video_clip.training


def test_a_saved_model_is_loaded_with_its_settings(model, paths, tmp_path):
    changed = dataclasses.replace(
        model.evaluation, data=DataConfig(num_frames=3, workers=0), templates="object", batch_size=32
    )
    own = dataclasses.replace(model, evaluation=changed)
    vactk.save_model(own, tmp_path / "m.safetensors")
    again = vactk.load_model(tmp_path / "m.safetensors", device="cpu")
    assert (again.evaluation.data.num_frames, again.evaluation.templates) == (3, "object")
    assert torch.equal(again.embed_video(paths), own.embed_video(paths))
    vactk.save_model(again, tmp_path / "again.safetensors", towers=())
    assert torch.equal(vactk.load_model(tmp_path / "again.safetensors").embed_text("a"), own.embed_text("a"))


def test_settings_override_those_of_the_checkpoint(model, tmp_path):
    vactk.save_model(model, tmp_path / "m.safetensors")
    found = vactk.load_model(tmp_path / "m.safetensors", settings={"data.num_frames": 5})
    assert found.evaluation.data.num_frames == 5
    with pytest.raises(vactk.VactkError, match=r"unknown setting 'data\.frames'"):
        vactk.load_model("toy", settings={"data.frames": 5})


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([], "the list of videos is empty"),
        (3, "a video is a path or a tensor of frames, got int"),
        (
            torch.linspace(-1, 2, 384).reshape(2, 3, 8, 8),
            r"frames are uint8 from 0 to 255, got torch.float32 from -1 to 2",
        ),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"frames have shape \(T, 3, H, W\), got \(3, 8, 8\)"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), r"got \(2, 8, 8, 3\)"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), r"got \(0, 3, 8, 8\)"),
        ("absent.mp4", "cannot read video 'absent.mp4'"),
    ],
)
def test_wrong_videos_are_named(model, videos, message):
    torch.manual_seed(0)
    with pytest.raises(vactk.VactkError, match=message):
        model.embed_video(videos)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "the list of texts is empty"),
        ("  ", "a text is empty"),
        (["a", 3], "a text is a string, got int"),
        (b"star", "a text is a string, got bytes"),
    ],
)
def test_wrong_texts_are_named(model, texts, message):
    for take in (model.embed_text, model.tokenize):
        with pytest.raises(vactk.VactkError, match=message):
            take(texts)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-61", "'ViT-B-61' is neither a file or folder nor a backbone; did you mean 'ViT-B-16'"),
        ("runs/absent", "'runs/absent' is neither a file or folder nor a backbone"),
    ],
)
def test_a_model_that_is_not_there_is_named(name, message):
    with pytest.raises(vactk.VactkError, match=message):
        vactk.load_model(name)
