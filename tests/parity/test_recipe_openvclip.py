"""What Open-VCLIP's release does around the model: prompts, frames, pictures, schedule, scores."""

from __future__ import annotations

import dataclasses
import warnings
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import vactk.torchvision_ops  # noqa: F401
from tests.parity.feeding import feed
from vactk.data.batch_sampler import num_steps
from vactk.data.config import OpenVCLIPSampling
from vactk.evaluate.classifier import class_embeddings, similarity_scorer
from vactk.evaluate.metrics import topk_accuracy
from vactk.evaluate.scoring import mean_over_views
from vactk.models.backbone import BackboneConfig
from vactk.models.text_tower import TextTower
from vactk.models.video_clip import VideoFeatures
from vactk.models.video_model import ModelConfig, new_model
from vactk.text.templates import choose_templates
from vactk.train.optim import OptimConfig, build_optimizer, parameter_groups, peak_lr, schedule
from vactk.train.weight_averaging import AverageConfig, WeightAverage
from vactk.video import VideoWarning, open_video
from vactk.video.reader import Timeline
from vactk.video.sampling import Clock, openvclip_starts, openvclip_views
from vactk.video.transforms import SCALINGS, TransformConfig, eval_transform, train_transform

# isort: split
import open_clip

STEPS = 10_000  # of an epoch, where the schedule is asked for fractions of one


@pytest.mark.fixtures("recipe_openvclip_templates")
def test_prompts_and_their_tokens(case):
    recorded, templates = case.rows("prompts.json"), choose_templates("openvclip")
    names = case.config["class_names"]
    assert [[template.format(name) for name in names] for template in templates] == recorded["prompts"]
    tokenizer = open_clip.SimpleTokenizer(context_length=case.config["context_length"])
    tokens = torch.stack([tokenizer(prompts) for prompts in recorded["prompts"]])
    assert torch.equal(tokens, case.tensors("output")["tokens"].long())


@pytest.mark.fixtures("recipe_openvclip_templates")
def test_class_embeddings(case, monkeypatch):
    """The text tower is a stand-in that looks up what the original one gave for a prompt."""
    names, templates = tuple(case.config["class_names"]), choose_templates("openvclip")
    features = case.tensors("input")["text_features"]
    rows = {t.format(n): features[i, k] for i, t in enumerate(templates) for k, n in enumerate(names)}
    model = new_model(ModelConfig(backbone=BackboneConfig(name="toy")))
    looked_up = dataclasses.replace(
        model.backbone, tokenize=lambda prompts: torch.stack([rows[prompt] for prompt in prompts])
    )
    monkeypatch.setattr(TextTower, "trim", lambda tower, x: x)
    monkeypatch.setattr(TextTower, "encode", lambda tower, x: x)
    model = dataclasses.replace(model, backbone=looked_up)
    found = class_embeddings(model, names, templates, torch.device("cpu"))
    case.check("class_embeddings", found)


def clock(row):
    """The clock of a made video; torchvision's reader goes by no stated duration."""
    step = row.get("pts_step") or 1
    return Clock(
        stamps=torch.arange(row["frames"]) * step,
        rate=float(Fraction(*row["fps"])),
        stated_frames=row["frames"],
        stated_ticks=0 if row["path"] == "pyav_no_duration" else row["frames"] * step,
    )


def sampling(case, row):
    return OpenVCLIPSampling(
        stride=row["sampling_rate"],
        fps=case.config["target_fps"],
        starts="spread" if row["path"] == "torchvision" else "container",
    )


@pytest.mark.fixtures("recipe_openvclip_frames")
def test_frames_in_testing(case):
    for row in case.rows("grid.json")["test"]:
        stated = clock(row)
        timeline = Timeline(times_s=stated.stamps.double(), fps=stated.rate, stated=stated)
        found = sampling(case, row).indices(timeline, row["num_frames"], row["views"], train=False)
        assert found.tolist() == row["indices"], row


@pytest.mark.fixtures("recipe_openvclip_frames")
def test_frames_in_training(case, monkeypatch):
    for row in case.rows("grid.json")["train"]:
        about = (clock(row), row["num_frames"], row["sampling_rate"])
        fps = case.config["target_fps"]
        found = openvclip_views(*about, [row["start"]], target_fps=fps)
        assert found.tolist() == [row["indices"]], row
        ((_, (lowest, highest), drawn),) = row["draws"]
        for share in (0.0, 1.0):
            with monkeypatch.context() as patch:
                feed(patch, rand=[share])
                generator = torch.Generator()
                (start,) = openvclip_starts(*about, target_fps=fps, generator=generator)
            assert start == pytest.approx(lowest + share * (highest - lowest))
        assert drawn == row["start"]


@pytest.mark.fixtures("recipe_openvclip_frames")
def test_frames_of_real_videos(case, data_dir):
    config = case.config
    rows = [row for row in case.rows("real.json")["rows"] if (data_dir / row["file"]).is_file()]
    if not rows:
        pytest.skip(f"none of the videos is in {data_dir}")
    for row in rows:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)
            video = open_video(data_dir / row["file"])
        with video:
            timeline = video.timeline
            num_frames, views = config["num_frames"], row["views"]
            found = OpenVCLIPSampling(stride=config["sampling_rate"], fps=config["target_fps"]).indices(
                timeline, num_frames, views, train=False
            )
        ranks = timeline.clock.stamps.argsort().argsort()[found].tolist()
        if row.get("error"):  # the original gives up; here frames come all the same
            assert (len(ranks), timeline.num_frames) == (views, row["frames_decoded"])
        else:
            assert ranks == row["indices"], row["file"]


def transform_config(case, **settings):
    config = case.config
    assert SCALINGS["openvclip"].mode.value == config["interpolation"]
    assert SCALINGS["openvclip"].antialias == config["antialias"]
    return TransformConfig(scaling="openvclip", **settings)


def picture(case, number):
    """(1, 3, H, W) uint8"""
    return case.load("frames.safetensors")[f"frame{number}"].permute(2, 0, 1)[None]


@pytest.mark.fixtures("recipe_openvclip_preprocess")
def test_pictures_in_testing(case):
    config = case.config
    compared = 0
    for name in case.tensors("output"):
        kind, number, *more = name.replace("frame", "").split("/")
        if not kind.startswith("test"):
            continue
        crops = int(kind.removeprefix("test") or 1)
        short_side = config["train_jitter_scales"][0] if crops == 1 else config["test_crop_size"]
        settings = transform_config(case, eval_crops=crops, eval_short_side=short_side)
        transform = eval_transform(settings, config["test_crop_size"], config["mean"], config["std"])
        chosen = int(more[0].removeprefix("crop")) if more and more[0] != "full" else 0
        case.check(name, transform(picture(case, number))[chosen, 0])
        compared += 1
    assert compared


@pytest.mark.fixtures("recipe_openvclip_preprocess")
def test_pictures_in_training(case, monkeypatch):
    config = case.config
    smallest, largest = config["train_jitter_scales"]
    settings = transform_config(
        case, crop="jitter", short_side=(smallest, largest), flip=config["flip_probability"]
    )
    transform = train_transform(settings, config["train_crop_size"], config["mean"], config["std"])
    for row in case.rows("train.json")["rows"]:
        drawn = [value for name, _, value in row["draws"] if name == "numpy.random.uniform"]
        share = (drawn[0] - smallest) / (largest - smallest)
        with monkeypatch.context() as patch:
            left = feed(patch, rand=[share, drawn[-1]], randint=row["crop"])
            found = transform(picture(case, row["frame"]))
        assert not any(left)
        case.check(row["output"], found[0])


@pytest.mark.fixtures("recipe_openvclip_schedule")
def test_learning_rate(case):
    for curve in case.rows("lr.json")["curves"]:
        if not curve["COSINE_AFTER_WARMUP"]:
            pytest.skip("the cosine begins with the training: no release trains so")
        base = curve["BASE_LR"]
        optim = OptimConfig(
            lr=base * curve["NUM_SHARDS"],
            base_batch_size=0,
            warmup_start_factor=curve["WARMUP_START_LR"] / base,
            min_lr_factor=curve["COSINE_END_LR"] / base,
            warmup_epochs=curve["WARMUP_EPOCHS"],
        )
        for epoch, lr in zip(curve["epochs"], curve["lr"], strict=True):
            factor = schedule(
                round(epoch * STEPS),
                round(curve["MAX_EPOCH"] * STEPS),
                round(optim.warmup_epochs * STEPS),
                optim.warmup_start_factor,
                optim.min_lr_factor,
            )
            assert peak_lr(optim, case.config["batch_size"]) * factor == pytest.approx(lr, rel=1e-9)


@pytest.mark.fixtures("recipe_openvclip_schedule")
def test_groups(case):
    recorded = case.rows("groups.json")
    config = case.config
    assert config["zero_wd_1d"]
    optim = OptimConfig(
        weight_decay=config["weight_decay"],
        weight_decay_on="all_but_vectors",
        betas=recorded["optimizer"]["betas"],
    )
    clip = open_clip.CLIP(
        8,
        {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
        {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 1, "layers": 1},
        quick_gelu=True,
    )
    ours = {f"model.{name}": parameter for name, parameter in clip.named_parameters()}
    groups = parameter_groups(((f"clip.{name}", p) for name, p in clip.named_parameters()), optim)
    found = {id(p): (g["weight_decay"], g["lr_factor"]) for g in groups for p in g["params"]}
    names = {name for group in recorded["groups"] for name in group["names"]}
    assert names == ours.keys()
    text = [name for name in names if ".visual." not in name]
    for group in recorded["groups"]:
        for name in set(group["names"]):
            decay, factor = found[id(ours[name])]
            assert decay == group["weight_decay"], name
            assert factor == group["lr_factor"] or name in text, name  # the text tower is not trained
    settings = build_optimizer(groups, optim).defaults
    assert (list(settings["betas"]), settings["eps"]) == (
        recorded["optimizer"]["betas"],
        recorded["optimizer"]["eps"],
    )


@pytest.mark.fixtures("recipe_openvclip_schedule")
def test_averaged_checkpoints(case):
    recorded, config = case.rows("averaging.json"), case.config
    average = AverageConfig(every_epochs=config["checkpoint_period"], start_epoch=recorded["wa_start"])
    batch_size, epochs = config["batch_size"], recorded["wa_end"]
    for num_videos in range(batch_size, 40 * batch_size, 37):  # whatever the size of the data
        ends = {num_steps(num_videos, batch_size, n): n for n in range(1, epochs + 1)}
        steps = average.steps(epochs, lambda n, size=num_videos: num_steps(size, batch_size, n))
        assert [ends[step] for step in sorted(steps)] == recorded["averaged"]
    weights = nn.Parameter(torch.zeros(2))
    mean = WeightAverage({"x": weights})
    for number in recorded["averaged"]:
        weights.data = torch.tensor([float(number), float(number) ** 2])
        mean.update()
    expected = torch.tensor(recorded["mean_of_number_and_square"])
    torch.testing.assert_close(mean.mean["x"], expected, rtol=1e-6, atol=0)


@pytest.mark.fixtures("recipe_openvclip_eval")
def test_from_frames_to_the_class_of_a_video(case):
    inputs, config = case.tensors("input"), case.config
    frames, labels = inputs["frame_embeddings"], case.load("io.safetensors")["labels"].long()
    scale = SimpleNamespace(logit_scale=torch.tensor(100.0))
    model = SimpleNamespace(video_clip=scale, config=SimpleNamespace(similarity="frames"))
    score = similarity_scorer(model, inputs["classifier"])
    flat = frames.flatten(0, 1)  # (V * views, T, D)
    logits = score(VideoFeatures(frames=flat, pooled=flat[:, 0]))
    case.check("clip_logits", logits.unflatten(0, (-1, config["views"])))
    scores = mean_over_views(logits.double(), config["views"], "logits")
    expected = case.tensors("output")["video_scores"]
    assert torch.equal(scores.argsort(dim=1), expected.argsort(dim=1))
    for k in (1, 5):
        accuracy = case.manifest["scalars"][f"top{k}"]["value"]
        assert round(topk_accuracy(scores, labels, k), 2) == accuracy
