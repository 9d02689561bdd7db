from __future__ import annotations

import json
import math
import os
import signal

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.models.conftest import tiny_clip  # noqa: F401
from vactk.cli.app import app
from vactk.config import build, merge, parse_overrides
from vactk.data.batch_sampler import TrainBatches
from vactk.data.config import DataConfig, ImageSpec
from vactk.data.datasets import find_dataset
from vactk.data.video_dataset import VideoDataset, train_loader
from vactk.models.losses import clip_loss
from vactk.models.text_tower import TextAdapterConfig, TextTower
from vactk.models.video_model import Heads, new_model
from vactk.recipes import read_recipe
from vactk.train.descriptions import DescriptionTexts
from vactk.train.recipe import Recipe
from vactk.train.run import Interrupted, train
from vactk.train.setup import build_task

QUICK = ["data.workers=0", "data.num_frames=2", "run.batch_size=4", "run.epochs=1", "average.every_epochs=0"]
END = 59  # the largest token ends a text
COUNTS = [2, 0, 1, 3]


@pytest.fixture
def tokens():
    """Descriptions of four videos, in tokens of the tiny CLIP."""
    torch.manual_seed(3)
    texts = torch.zeros(sum(COUNTS), 16, dtype=torch.long)
    for row in range(len(texts)):
        texts[row, : row + 2] = torch.randint(1, END, (row + 2,))
        texts[row, row + 2] = END
    return texts


@pytest.fixture
def text(tiny_clip):  # noqa: F811
    return TextTower(tiny_clip, TextAdapterConfig(layers=0).build(32, 2))


def test_pair_loss_against_the_formula_in_loops():
    torch.manual_seed(0)
    video, text = (F.normalize(torch.randn(5, 8), dim=-1) for _ in range(2))
    total = 0.0
    for a, b in ((video, text), (text, video)):
        for i in range(5):
            logits = [
                14.0 * sum(float(x) * float(y) for x, y in zip(a[i], b[j], strict=True)) for j in range(5)
            ]
            total -= math.log(math.exp(logits[i]) / sum(math.exp(x) for x in logits)) / 5
    assert float(clip_loss(video, text, torch.tensor(14.0))) == pytest.approx(total / 2, rel=1e-5)


def test_pair_loss_is_symmetric_and_does_not_depend_on_the_order():
    torch.manual_seed(0)
    video, text = (F.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    scale, order = torch.tensor(9.0), torch.randperm(6)
    loss = clip_loss(video, text, scale)
    torch.testing.assert_close(clip_loss(text, video, scale), loss)
    torch.testing.assert_close(clip_loss(video[order], text[order], scale), loss)
    assert clip_loss(video[:1], text[:1], scale) == 0


@pytest.mark.parametrize("frozen", [True, False])
def test_a_draw_chooses_among_the_videos_own_descriptions(text, tokens, frozen):
    texts = DescriptionTexts(tokens, torch.tensor(COUNTS), frozen=frozen, batch_size=4)
    every = F.normalize(torch.cat([text.encode(row[None]) for row in tokens]), dim=-1)
    places = torch.tensor([3, 0, 1, 2, 3, 0, 3])
    draws = torch.tensor([0.0, 0.49, 0.5, 0.99, 0.34, 0.51, 1 - 2**-24])
    wanted = [3, 0, None, 2, 4, 1, 5]
    found = texts(text, places, draws)
    assert found.known.tolist() == [row is not None for row in wanted]
    for row, embedding in zip(wanted, found.text, strict=True):
        torch.testing.assert_close(embedding, every[row] if row is not None else torch.zeros(24))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_batch_without_any_description(text, tokens, frozen):
    texts = DescriptionTexts(tokens, torch.tensor(COUNTS), frozen=frozen)
    found = texts(text, torch.tensor([1, 1]), torch.tensor([0.0, 0.9]))
    assert not found.known.any()
    assert torch.equal(found.text, torch.zeros(2, 24))


def test_frozen_texts_are_embedded_once_and_without_gradient(text, tokens, monkeypatch):
    texts = DescriptionTexts(tokens, torch.tensor(COUNTS), frozen=True, batch_size=4)
    sizes, encode = [], text.encode
    monkeypatch.setattr(text, "encode", lambda tokens: sizes.append(len(tokens)) or encode(tokens))
    for _ in range(3):
        found = texts(text, torch.tensor([0, 3]), torch.tensor([0.1, 0.8]))
    assert sizes == [4, 2]
    assert not found.text.requires_grad
    assert not texts.state_dict()


def test_trained_texts_have_gradients(text, tokens):
    texts = DescriptionTexts(tokens, torch.tensor(COUNTS), frozen=False)
    target = torch.randn(2, 24)
    (texts(text, torch.tensor([0, 1]), torch.tensor([0.1, 0.8])).text * target).sum().backward()
    gradients = [parameter.grad for parameter in text.tower.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def recipe(*changes):
    return build(Recipe, merge(read_recipe("openvclip-shapes"), parse_overrides([*QUICK, *changes])))


@pytest.fixture
def videos(small_shapes):
    return find_dataset("shapes").load("train")


@pytest.fixture
def described(videos, tmp_path):
    """A file that describes all videos but two, one in a long text, and one that is not trained on."""
    path = tmp_path / "texts.jsonl"
    lines = []
    for number, record in enumerate(videos.records[2:]):
        texts = [record.captions[0], f"clip number {number}", "a still scene. nothing else is there."]
        if number == 0:
            texts.append("a long way to say it. " * 20)
        lines.append({"video": record.video.name, "descriptions": texts, "captions": []})
    lines.append({"video": "elsewhere.mp4", "descriptions": ["not here"]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("towers", ["[vision,scale]", "[vision,text,scale]"])
def test_the_loss_is_the_pair_loss_of_the_described_videos(videos, described, towers):
    full = recipe(f"descriptions='{described}'", f"task.towers={towers}")
    torch.manual_seed(0)
    model = new_model(full.model, Heads(classes=videos.classes))
    messages = []
    task = build_task(full, model, videos, messages.append).eval()
    assert any(message.startswith("2 of 15 videos have no description") for message in messages)
    assert "1 descriptions are of no training video, such as 'elsewhere.mp4'" in messages
    limit = model.backbone.tokenize.context_length
    assert f"1 of 40 descriptions were truncated to the text tower's {limit} tokens" in messages
    size, scale = model.backbone.image_size, model.video_clip.logit_scale
    video, labels = torch.randn(4, 2, 3, size, size), torch.tensor([0, 0, 1, 2])
    found = task(video, labels, torch.tensor([5, 0, 14, 9]), torch.full((4,), 0.5))
    own = [f"clip number {number}" for number in (3, 12, 7)]
    with torch.no_grad():
        text = F.normalize(model.video_clip.text.encode(model.backbone.tokenize(own)), dim=-1)
        seen = F.normalize(model.video_clip.video_features(video).frames, dim=-1).mean(1)[[0, 2, 3]]
        wanted = clip_loss(seen, text, scale)
    torch.testing.assert_close(found["descriptions"], wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["loss"], found["cross_modal"] + found["descriptions"])
    nothing = task(video[:2], labels[:2], torch.tensor([0, 1]), torch.zeros(2))
    assert nothing["descriptions"] == 0
    nothing["loss"].backward()


def test_a_draw_is_the_videos_own_in_every_epoch(videos):
    picture = ImageSpec(32, (0.5,) * 3, (0.5,) * 3)
    dataset = VideoDataset(videos.records, DataConfig(num_frames=1, workers=0), picture, train=True, seed=1)

    def draws(rank, world):
        batches = TrainBatches(15, 4, seed=1, steps=range(6), rank=rank, world=world, micro_batches=1)
        return [
            list(zip(batch.indices.tolist(), batch.random_draws.tolist(), strict=True))
            for batch in train_loader(dataset, batches)
        ]

    whole, halves = draws(0, 1), [draws(rank, 2) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        assert sorted(batch) == sorted(halves[0][step] + halves[1][step])
    values = [draw for batch in whole for _, draw in batch]
    assert len(set(values)) == len(values)
    assert all(0 <= value < 1 for value in values)


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_with_descriptions_goes_on_to_the_same_end(described, tmp_path, reporter):
    full = recipe(f"descriptions='{described}'", "run.save_every=0.25")
    train(full, tmp_path / "whole", resume=False, reporter=reporter)
    assert all(math.isfinite(step["descriptions"]) for step in reporter.steps)
    reporter.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 2 else None
    with pytest.raises(Interrupted):
        train(full, tmp_path / "parted", resume=False, reporter=reporter)
    reporter.on_step = lambda step: None
    train(full, tmp_path / "parted", resume=True, reporter=reporter)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parted"))


def test_a_weight_of_zero_is_a_run_without_descriptions(described, tmp_path, reporter):
    given = f"descriptions='{described}'"
    train(recipe(), tmp_path / "without", resume=False, reporter=reporter)
    train(recipe(given, "task.descriptions=0"), tmp_path / "zero", resume=False, reporter=reporter)
    assert same(weights(tmp_path / "without"), weights(tmp_path / "zero"))
    train(recipe(given), tmp_path / "with", resume=False, reporter=reporter)
    assert not same(weights(tmp_path / "without"), weights(tmp_path / "with"))


def finetune(*args):
    wanted = ["finetune", "--dataset", "shapes", *args, *QUICK]
    return CliRunner().invoke(app, [str(arg) for arg in wanted], prog_name="vactk")


def test_the_command_tells_of_missing_extra_and_cut_descriptions(described, tmp_path):
    result = finetune("--descriptions", described, "--output", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.stderr
    assert f"2 of 15 videos have no description in '{described}', such as" in result.stderr
    assert "this loss leaves them out" in result.stderr
    assert "1 descriptions are of no training video, such as 'elsewhere.mp4'" in result.stderr
    assert "1 of 40 descriptions were truncated to the text tower" in result.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["descriptions"] > 0 for line in lines)
    assert json.loads(result.stdout)["metrics"]["seen"]["num_videos"] == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read descriptions from"),
        ("", "holds no descriptions"),
        ('{"video": "a.mp4"}\n', "line 1 of"),
        (
            '{"video": "elsewhere.mp4", "descriptions": ["x"]}\n',
            "none of the 1 described videos is among the 15",
        ),
    ],
)
def test_a_file_that_does_not_fit_stops_the_command(small_shapes, tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_text(content)
    result = finetune("--descriptions", path, "--output", tmp_path / "run")
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()
