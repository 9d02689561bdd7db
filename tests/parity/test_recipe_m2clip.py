"""What M2-CLIP's release does around the model: frames, pictures, RandAugment, schedule."""

from __future__ import annotations

import pytest
import torch

import vactk.torchvision_ops  # noqa: F401
from tests.parity.feeding import feed
from vactk.checkpoints.m2clip import rename_m2clip
from vactk.data.config import M2CLIPSampling
from vactk.train.optim import OptimConfig, build_optimizer, parameter_groups, peak_lr, schedule, set_lr
from vactk.video import Timeline
from vactk.video.randaugment import OPERATIONS, RandAugment, apply_operations, argument
from vactk.video.sampling import m2clip_segments, m2clip_views
from vactk.video.transforms import SCALINGS, TransformConfig, eval_transform, train_transform

# isort: split
from torchvision.transforms import v2

STEPS = 10_000  # of an epoch, where the schedule is asked for fractions of one


@pytest.mark.fixtures("recipe_m2clip_frames")
def test_frames_in_testing(case):
    for row in case.rows("grid.json")["test"]:
        timeline = Timeline(times_s=torch.arange(row["frames"]).double(), fps=1.0)
        sampling = M2CLIPSampling(stride=row["sampling_rate"])
        found = sampling.indices(timeline, row["num_frames"], row["views"], train=False)
        assert found.tolist() == row["indices"], row


@pytest.mark.fixtures("recipe_m2clip_frames")
def test_frames_in_training(case, monkeypatch):
    generator = torch.Generator()
    for row in case.rows("grid.json")["train"]:
        bounds, values = [draw[1] for draw in row["draws"]], [draw[2] for draw in row["draws"]]
        with monkeypatch.context() as patch:
            if row["kind"] == "uniform":
                spans = zip(values, bounds, strict=True)
                shares = [(value - low + 0.5) / (high - low) for value, (low, high) in spans]
                left = feed(patch, rand=[shares])
                found = m2clip_segments(row["frames"], row["num_frames"], generator=generator)
            else:
                left = feed(patch, randint=values)
                about = (row["frames"], row["num_frames"], row["sampling_rate"])
                found = m2clip_views(*about, generator=generator)
        assert found.tolist() == [row["indices"]], row
        assert not any(left)


@pytest.mark.fixtures("recipe_m2clip_frames")
def test_a_random_start_is_as_likely_anywhere_in_the_range_of_the_release(case):
    for row in case.rows("grid.json")["train"]:
        if row["kind"] == "dense" and row["draws"]:
            ((_, (bound,), _),) = row["draws"]
            about = (row["frames"], row["num_frames"], row["sampling_rate"])
            starts = m2clip_views(*about, num_views=40 * bound, generator=torch.Generator())[:, 0]
            assert starts.unique().tolist() == list(range(bound))


def transform_config(case, dataset, **settings):
    assert SCALINGS["m2clip"].mode.value == case.config["interpolation"]
    assert SCALINGS["m2clip"].antialias == case.config["antialias"]
    return TransformConfig(scaling="m2clip", flip=0.5 * case.config[dataset]["mirror"], **settings)


def picture(case, number):
    """(1, 3, H, W) uint8"""
    return case.load("frames.safetensors")[f"frame{number}"].permute(2, 0, 1)[None]


def preparation(case):
    return case.config["spatial_size"], case.config["mean"], case.config["std"]


@pytest.mark.fixtures("recipe_m2clip_preprocess")
def test_pictures_in_testing(case):
    compared = 0
    for name in case.tensors("output"):
        kind, number, *more = name.replace("frame", "").split("/")
        if not kind.startswith("test"):
            continue
        settings = transform_config(case, "k400", eval_crops=int(kind.removeprefix("test") or 1))
        crops = eval_transform(settings, *preparation(case))(picture(case, number))[:, 0]
        case.check(name, crops[int(more[0].removeprefix("crop"))] if more else crops)
        compared += 1
    assert compared


@pytest.mark.fixtures("recipe_m2clip_preprocess")
def test_pictures_in_training(case, monkeypatch):
    config, size = case.config, case.config["spatial_size"]
    sides = tuple(round(size * scale) for scale in config["k400"]["scale_range"])
    jitter = transform_config(case, "k400", crop="jitter", short_side=sides)
    areas = {"scale": config["ssv2"]["scale_range"], "ratio": config["ssv2"]["aspect_ratio"]}
    resized = transform_config(case, "ssv2", crop="resized", **areas)
    pipelines = {"jitter": jitter, "resized_crop": resized}
    for row in case.rows("train.json")["rows"]:
        transform = train_transform(pipelines[row["pipeline"]], *preparation(case))
        draws = {name: value for name, _, value in row["draws"]}
        with monkeypatch.context() as patch:
            if row["pipeline"] == "jitter":
                share = (draws["numpy.random.uniform"] - sides[0]) / (sides[1] - sides[0])
                flip = [draws["torch.rand"]] if "torch.rand" in draws else []
                feed(patch, rand=[share, *flip], randint=row["crop"])
            else:
                names = ("top", "left", "height", "width")
                box = dict(zip(names, row["box_top_left_height_width"], strict=True))
                patch.setattr(v2.RandomResizedCrop, "make_params", lambda crop, inputs, box=box: box)
            found = transform(picture(case, row["frame"]))
        case.check(row["output"], found[0])


def drawn(recorded):
    return [(name, *(values or [None])) for name, values in recorded]


@pytest.mark.fixtures("recipe_m2clip_randaugment")
def test_operations(case):
    frame = case.tensors("input")["frame"].permute(2, 0, 1)[None]
    tensors = case.load("io.safetensors")
    rows = case.rows("ops.json")["operations"]
    assert [row["name"] for row in rows] == list(OPERATIONS)
    for row in rows:
        levels = {**row["arguments_by_level"], row["magnitude"]: row["argument_at_7"]}
        for level, values in levels.items():
            expected = values[0] if values else None
            assert argument(row["name"], float(level)) == pytest.approx(expected)
        for output in row["outputs"]:
            found = apply_operations(frame, drawn([(row["name"], output["argument"])]))
            assert torch.equal(found[0].permute(1, 2, 0), tensors[output["tensor"]]), output["tensor"]


@pytest.mark.fixtures("recipe_m2clip_randaugment")
def test_a_view_through_the_whole_of_it(case):
    frame = case.tensors("input")["frame"].permute(2, 0, 1)
    tensors = case.load("io.safetensors")
    for row in case.rows("clips.json")["rows"]:
        if row["output"]:
            found = apply_operations(torch.stack([frame, frame.flip(-1)]), drawn(row["applied"]))
            assert torch.equal(found.permute(0, 2, 3, 1), tensors[row["output"]])


@pytest.mark.fixtures("recipe_m2clip_randaugment")
def test_what_is_drawn(case):
    recorded = case.rows("ops.json")
    signed = {row["name"]: row["signed"] for row in recorded["operations"]}
    first = recorded["operations"][0]
    magnitude, spread, layers = first["magnitude"], first["magnitude_std"], recorded["layers"]
    augment, runs = RandAugment(layers, magnitude, spread), 4000
    torch.manual_seed(0)
    draws = [augment.sample_operations() for _ in range(runs)]
    share = sum(map(len, draws)) / (runs * layers)
    assert share == pytest.approx(first["probability"], abs=0.02)
    names = [name for draw in draws for name, _ in draw]
    for name in signed:
        assert names.count(name) / len(names) == pytest.approx(1 / len(signed), abs=0.01)
    # a signed operation's argument is in proportion to the level, and its sign even
    values = torch.tensor([value for draw in draws for name, value in draw if name == "Rotate"])
    levels = values.abs() / argument("Rotate", 1.0)
    assert levels.mean() == pytest.approx(magnitude, abs=0.1)
    assert levels.std() == pytest.approx(spread, abs=0.1)
    assert levels.max() <= recorded["max_level"]
    assert (values < 0).float().mean() == pytest.approx(0.5, abs=0.06)
    unsigned = [value for draw in draws for name, value in draw if not signed[name] and value is not None]
    assert min(unsigned) >= 0


def optim_config(curve, config):
    return OptimConfig(
        lr=curve["blr"],
        weight_decay=config["weight_decay"],
        weight_decay_on="all_but_biases",
        betas=tuple(config["optimizer"]["betas"]),
        warmup_epochs=curve["warmup_epochs"],
        warmup_start_factor=0.0,
        clip_grad_norm=config["clip_grad"] or 0.0,
    )


@pytest.mark.fixtures("recipe_m2clip_schedule")
def test_learning_rate(case):
    for curve in case.rows("lr.json")["curves"]:
        optim = optim_config(curve, case.config)
        peak = peak_lr(optim, curve["batch_per_gpu"] * curve["gpus"])
        assert peak == pytest.approx(curve["lr"])
        total, warmup = round(curve["epochs"] * STEPS), round(curve["warmup_epochs"] * STEPS)
        rows = zip(curve["at"], curve["factor"], curve["vision"], curve["text"], strict=True)
        for epoch, factor, vision, text in rows:
            found = schedule(
                round(epoch * STEPS), total, warmup, optim.warmup_start_factor, optim.min_lr_factor
            )
            assert found == pytest.approx(factor, abs=1e-9)
            assert peak * found == pytest.approx(vision, abs=1e-12)
            assert peak * found * optim.text_lr_factor == pytest.approx(text, abs=1e-12)


@pytest.mark.fixtures("recipe_m2clip_schedule")
def test_groups_and_first_steps(case):
    recorded, rates = case.rows("groups.json")["groups"], case.rows("lr.json")
    curve = rates["curves"][0]
    optim = optim_config(curve, case.config)
    names = [name for group in recorded for name in group["names"]]
    blocks = [int(name.split(".")[2]) for name in names if name.startswith("transformer.")]
    ours = {  # the block that the release adds to the text tower comes last
        name: next(iter(rename_m2clip({name: torch.zeros(1)}, max(blocks, default=12)))) for name in names
    }
    parameters = {name: torch.nn.Parameter(torch.zeros(2, 2)) for name in names}
    optimizer = build_optimizer(
        parameter_groups([(ours[name], p) for name, p in parameters.items()], optim), optim
    )
    assert optimizer.defaults["eps"] == case.config["optimizer"]["eps"]
    peak = peak_lr(optim, curve["batch_per_gpu"] * curve["gpus"])
    steps = rates["steps_per_epoch"]
    total, warmup = round(curve["epochs"] * steps), round(curve["warmup_epochs"] * steps)
    for row in rates["first_steps"]:
        set_lr(
            optimizer,
            peak * schedule(row["step"], total, warmup, optim.warmup_start_factor, optim.min_lr_factor),
        )
        found = {
            id(p): (group["lr"], group["lr_factor"], group["weight_decay"])
            for group in optimizer.param_groups
            for p in group["params"]
        }
        for group, lr in zip(recorded, row["lr_of_groups"], strict=True):
            for name in group["names"]:
                expected = (pytest.approx(lr, abs=1e-12), group["lr_factor"], group["weight_decay"])
                assert found[id(parameters[name])] == expected, name
