"""Training on pairs of videos and captions: the loss, its runs, and what they are evaluated and chosen by."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.data import trees
from tests.train.conftest import Quiet
from tests.train.test_processes import largest_difference, metrics, on_processes
from vactk.cli.app import app
from vactk.config import build, merge, parse_overrides
from vactk.data.records import Record, VideoSet
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split
from vactk.data.shapes.world import COLORS
from vactk.errors import VactkError
from vactk.models.video_model import new_model
from vactk.recipes import read_recipe
from vactk.text.descriptions import refuse_all_the_same
from vactk.train import run as runs
from vactk.train.recipe import Recipe
from vactk.train.run import Interrupted, train
from vactk.train.run_videos import load_run_videos, training_videos
from vactk.train.setup import build_task

CLASSES = tuple(f"{shape} moving {way}" for shape in ("star", "fish") for way in ("left", "right", "up"))
QUICK = ["data.workers=0", "data.num_frames=2", "run.batch_size=6", "run.epochs=2", "run.precision=fp32"]
TOY = ["model={backbone: {name: toy}, temporal: none}", *QUICK]


@pytest.fixture
def shapes(monkeypatch, tmp_path):
    """Videos whose captions name colour, shape and motion."""
    split = Split(classes=CLASSES, videos_per_class=4, seed=0, unique_captions=True)
    monkeypatch.setitem(clips.SPLITS, "seen", split)
    return clips.load_shapes("seen", root=tmp_path / "shapes")


@pytest.fixture
def listed(shapes, tmp_path):
    """A list of the videos with three captions each, of which a quarter is the test split."""
    path = tmp_path / "captions.jsonl"
    lines = []
    for number, record in enumerate(shapes.records):
        captions = [record.captions[0], f"a video of {record.captions[0]}", f"{record.captions[0]}, drawn"]
        split = "test" if number % 4 == 3 else "train"
        lines.append({"path": str(record.video), "caption": captions, "split": split})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def recipe(dataset, *settings, name="clip4clip-msrvtt"):
    chosen = parse_overrides([*TOY, f"dataset={dataset}", *settings])
    return build(Recipe, merge(read_recipe(name), chosen))


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="vactk")


@pytest.mark.parametrize("similarity", ["video", "frames"])
@pytest.mark.parametrize("towers", ["[vision,scale]", "[vision,text,scale]"])
def test_the_loss_is_open_clips_on_the_embeddings_of_retrieval(listed, similarity, towers):
    full = recipe(listed, f"task.towers={towers}", f"model.similarity={similarity}")
    videos = load_run_videos(full, Quiet()).train
    model = new_model(full.model)
    task = build_task(full, model, videos, print).eval()
    assert list(task.weights) == ["captions"]
    size, places = model.backbone.image_size, torch.tensor([4, 0, 9, 7])
    video = torch.randn(4, 2, 3, size, size)
    found = task(video, -torch.ones(4, dtype=torch.long), places, torch.tensor([0.0, 0.5, 0.99, 0.34]))
    own = [videos.records[p].captions[n] for p, n in zip(places.tolist(), (0, 1, 2, 1), strict=True)]
    with torch.no_grad():
        text = F.normalize(model.video_clip.text.encode(model.backbone.tokenize(own)), dim=-1)
        frames = model.video_clip.video_features(video).frames
        pooled = F.normalize(frames, dim=-1).mean(1) if similarity == "frames" else frames.mean(1)
        wanted = ClipLoss()(F.normalize(pooled, dim=-1), text, model.video_clip.logit_scale)
    torch.testing.assert_close(found["captions"], wanted, rtol=1e-4, atol=1e-5)
    assert found["loss"] == found["captions"]
    nothing = task(video[:1], *(torch.zeros(0, dtype=torch.long),) * 2, torch.zeros(0))
    assert nothing["captions"] == 0
    nothing["loss"].backward()


MORE = (
    "interpolated.weight=0.5",
    "average.every_epochs=0.5",
    "run.eval_every=0.5",
    "held_out=0.2",
    "run.save_every=0.3",
)
SPLIT = ("run.accumulate=2", "run.batch_size=8")
KINDS = [
    ("clip4clip-msrvtt", ["optim.lr=0.1", *MORE]),
    ("clip4clip-msrvtt", ["task.towers=[vision,scale]", *MORE]),
    (
        "adapters-msrvtt",
        ["model.temporal=st_adapter", "model.text_adapter.layers=1", *SPLIT],
    ),
]


@pytest.mark.parametrize(("name", "settings"), KINDS)
def test_a_run_goes_on_to_the_same_end_and_processes_agree(listed, tmp_path, name, settings):
    full = recipe(listed, *settings, name=name)
    reporter = Quiet()
    whole = train(full, tmp_path / "whole", resume=False, reporter=reporter)
    reporter.on_step = lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 3 else None
    with pytest.raises(Interrupted):
        train(full, tmp_path / "parted", resume=False, reporter=reporter)
    reporter.on_step = lambda step: None
    parted = train(full, tmp_path / "parted", resume=True, reporter=reporter)
    assert largest_difference(tmp_path / "whole", tmp_path / "parted") == 0
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parted")
    assert (whole.metrics, whole.chosen) == (parted.metrics, parted.chosen)
    on_processes(2, full, tmp_path / "two")
    assert largest_difference(tmp_path / "whole", tmp_path / "two") < 2e-4
    losses = (
        [line["captions"] for line in metrics(tmp_path / run) if "captions" in line]
        for run in ("whole", "two")
    )
    assert next(losses) == pytest.approx(next(losses), rel=2e-3, abs=1e-4)


def test_retrieval_gets_better_than_the_frozen_models(monkeypatch, tmp_path):
    """Captions name colours and shapes in words that the model has never seen: they are spelt backwards."""
    split = Split(classes=("star moving left", "fish moving left"), videos_per_class=40, seed=0)
    monkeypatch.setitem(clips.SPLITS, "seen", split)
    rows, seen = [], set()
    for record in clips.load_shapes("seen", root=tmp_path / "shapes").records:
        named = [word[::-1] for word in record.captions[0].split() if word in (*COLORS, "star", "fish")]
        text = " ".join(named)
        part = "train" if text in seen else "test"  # the test split has each text once
        rows += [f"{record.video},{text},{part}", f"{record.video},{text} here,{part}"]
        seen.add(text)
    path = tmp_path / "backwards.csv"
    path.write_text("\n".join(["path,caption,split", *rows]))
    settings = [
        "optim.tower_lr_factor=1",
        "held_out=0",
        "run.eval_every=0",
        "run.keep=last",
        "run.batch_size=16",
    ]
    settings += ["optim.warmup_epochs=1", "run.epochs=8"]
    after, before = (
        train(recipe(path, *settings, *more), tmp_path / more[0], resume=False, reporter=Quiet()).metrics[
            "test"
        ]
        for more in (["optim.lr=2e-3"], ["optim.lr=1e-12", "run.epochs=0.1"])
    )
    assert after["num_texts"] == 2 * after["num_videos"] == 36
    for way in ("t2v", "v2t"):
        assert before[way]["R@1"] < 20
        assert after[way]["R@1"] > 40
        assert after[way]["MnR"] < 4


def test_the_best_weights_on_held_out_videos_are_kept_and_the_result_says_so(listed, tmp_path, monkeypatch):
    scores = iter((10.0, 30.0, 20.0, 30.0, 5.0))
    known: dict[str, float] = {}

    def score(found):
        key = json.dumps(found, sort_keys=True)
        known.setdefault(key, next(scores) if key not in known else 0)
        return known[key], 0.0

    monkeypatch.setattr(runs, "_score", score)
    full = recipe(
        listed, "optim.lr=0.5", "run.epochs=4", "run.eval_every=1", "held_out=0.3", "run.batch_size=4"
    )
    result = train(full, tmp_path / "run", resume=False, reporter=Quiet())
    evaluations = [line for line in metrics(tmp_path / "run") if "evaluation" in line]
    assert [list(line["evaluation"]) for line in evaluations] == [
        ["train, held out"]
    ] * 4  # the last one too, and never the test set
    assert result.chosen["step"] == evaluations[1]["step"]
    assert result.chosen["by"] == "text-to-video R@1 on captions.jsonl/train, held out"
    best, kept = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("best", "model"))
    assert all(torch.equal(best[name], kept[name]) for name in best)
    assert result.videos["trained"]["num_videos"] == 12  # three recordings by their names, of six pieces
    assert result.videos["held_out"]["num_videos"] == 6
    assert [videos["split"] for videos in result.videos["tested"]] == ["captions.jsonl/test"]
    again = invoke("retrieve", "--evaluate", "--dataset", listed, "--split", "test", "--workers", 0, "--json",
                   "--checkpoint", tmp_path / "run")  # fmt: skip
    assert again.exit_code == 0, again.stderr
    found, own = json.loads(again.stdout), result.metrics["test"]
    assert [found[key] for key in ("t2v", "v2t", "hash")] == [own[key] for key in ("t2v", "v2t", "hash")]


@pytest.fixture
def msrvtt(tmp_path, shapes):
    """The miniature of MSR-VTT, with drawn videos."""
    drawn = iter(shapes.records)

    def draw(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(next(drawn).video, path)

    return trees.msrvtt(tmp_path / "msrvtt", draw)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("train", []),
        ("finetune", []),
        ("finetune", ["--recipe", "openvclip-msrvtt", "average.start_epoch=0"]),
    ],
)
def test_msrvtt_is_trained_and_tested_by_its_protocol(msrvtt, tmp_path, command, options):
    arguments = (
        "--dataset",
        "msrvtt",
        "--data-root",
        msrvtt,
        "--backbone",
        "toy",
        "--output",
        tmp_path / "run",
    )
    found = invoke(command, *arguments, *options, "--json", *QUICK)
    assert found.exit_code == 0, found.stderr
    result = json.loads(found.stdout)
    assert result["videos"]["trained"]["split"] == "msrvtt/train9k"
    tested = result["metrics"]["test1k"]
    assert (tested["protocol"], tested["num_videos"]) == ("msrvtt/1k-a", 1)
    again = invoke("retrieve", "--evaluate", "--protocol", "msrvtt/1k-a", "--data-root", msrvtt, "--workers", 0,
                   "--checkpoint", tmp_path / "run", "--json")  # fmt: skip
    assert json.loads(again.stdout)["hash"] == tested["hash"]
    shown = invoke(command, *arguments, *options, "--resume", *QUICK)
    assert "trained on 2 videos of msrvtt/train9k; 1 held out of them; weights of step" in shown.stdout
    assert "tested on msrvtt/test1k" in shown.stdout


def test_a_training_list_with_test_videos_is_refused(msrvtt, reporter):
    (msrvtt / "MSRVTT_train.9k.csv").write_text("video_id\nvideo0\nvideo3\n")
    full = recipe("msrvtt", f"data_root='{msrvtt}'")
    with pytest.raises(
        VactkError, match=r"1 videos are both in msrvtt/train9k and in test1k, such as '.*video3"
    ):
        load_run_videos(full, reporter)


def pairs(*captions):
    records = tuple(Record(video=f"{n}.mp4", captions=own) for n, own in enumerate(captions))
    return VideoSet(name="mine", split="train", classes=(), words=(), records=records)


def test_videos_without_captions_are_left_out_and_counted():
    messages = []
    full = recipe("mine")
    kept = training_videos(full, pairs(("a dog",), (), (" ", "a cat"), ("",)), messages.append)
    assert [record.captions for record in kept.records] == [("a dog",), ("a cat",)]
    assert messages == ["2 of 4 videos of mine/train have no caption, such as '1.mp4': they are left out"]
    with pytest.raises(VactkError, match="mine/train has no captions to train on"):
        training_videos(full, pairs((), ("",)), print)
    with pytest.raises(VactkError, match="all 2 videos with a caption have the same one, 'a dog'"):
        training_videos(full, pairs(("a dog",), ("a dog",), ()), print)
    with pytest.raises(VactkError, match="has 1 videos to train on: pairs need at least two"):
        training_videos(full, pairs(("a dog",), ()), print)
    refuse_all_the_same([("a dog", "a cat"), ("a dog",)], "caption")


def test_enormous_captions_are_cut_to_the_tokens_of_the_recipe():
    messages = []
    videos = pairs(("word " * 100_000,), ("a dog",))
    full = recipe("mine", "task.caption_tokens=8")
    task = build_task(full, new_model(full.model), videos, messages.append)
    assert messages == ["1 of 2 captions were truncated to 8 tokens"]
    assert int(task.captions.tokens[0].argmax()) == 7  # the end, at the eighth place


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["shots=2"], "shots are counted per class, and captions have none"),
        (["held_out=0", "run.keep=last", "run.eval_every=1"], "never on the test set: set held_out"),
        (["held_out=0"], "run.keep=best chooses by held-out training videos"),
        (["held_out=1"], "held_out must be a share from 0 to 0.9, got 1"),
        (["task.caption_tokens=2"], "caption_tokens must be 0 or at least 3, got 2"),
    ],
)
def test_settings_that_captions_cannot_have(settings, message):
    with pytest.raises(VactkError, match=message):
        recipe("mine", *settings)


def test_labels_are_trained_on_by_default_and_captions_where_the_recipe_says_so(shapes, tmp_path):
    path = tmp_path / "both.csv"
    rows = [
        f"{record.video},{shapes.classes[record.label]},{record.captions[0]}" for record in shapes.records
    ]
    path.write_text("\n".join(["path,label,caption", *rows]))
    arguments = ("train", "--dataset", path, "--backbone", "toy", "--json", *QUICK, "run.accumulate=1")
    by_label, by_caption, both = (
        json.loads(invoke(*arguments, "--output", tmp_path / str(number), *more).stdout)["metrics"]["test"]
        for number, more in enumerate(([], ["--recipe", "adapters-msrvtt"], ["task.captions=1"]))
    )
    assert {"top1", "class_head"} <= by_label.keys()
    assert "t2v" in by_caption
    assert "top1" not in by_caption
    assert "top1" in both
    lines = [metrics(tmp_path / str(number))[0] for number in range(3)]
    assert ["captions" in line for line in lines] == [False, True, True]
    assert ["cross_modal" in line for line in lines] == [True, False, True]
