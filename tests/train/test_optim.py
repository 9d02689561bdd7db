from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vactk.errors import VactkError
from vactk.train.optim import (
    OptimConfig,
    build_optimizer,
    parameter_groups,
    peak_lr,
    schedule,
    set_lr,
)


def named(**shapes):
    return [(name.replace("__", "."), nn.Parameter(torch.zeros(shape))) for name, shape in shapes.items()]


def test_schedule_warms_up_in_a_line_and_falls_as_a_cosine_to_zero():
    factors = [schedule(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([i / 10 for i in range(10)])
    assert factors[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 90)) for i in range(90)])
    assert schedule(100, 100, 10) == pytest.approx(0.0)
    assert schedule(0, 10, 0) == 1.0


def test_schedule_between_other_shares():
    factors = [schedule(step, 100, 10, 0.01, 0.2) for step in range(101)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[5] == pytest.approx(0.505)
    assert max(factors) == factors[10] == 1.0
    assert factors[100] == pytest.approx(0.2)


def test_lower_blocks_of_clip_learn_more_slowly():
    names = [
        "clip.visual.conv1.weight",
        "clip.visual.transformer.resblocks.0.ln_1.weight",
        "clip.visual.transformer.resblocks.2.ln_1.weight",
        "clip.visual.proj",
        "clip.token_embedding.weight",
        "clip.transformer.resblocks.1.ln_1.weight",
        "temporal.0.up.weight",
    ]
    parameters = [(name, nn.Parameter(torch.zeros(1))) for name in names]
    groups = parameter_groups(parameters, OptimConfig(layer_decay=0.5, text_lr_factor=1.0))
    factor = {id(p): group["lr_factor"] for group in groups for p in group["params"]}
    found = [factor[id(parameter)] for _, parameter in parameters]
    assert found == [0.125, 0.25, 1.0, 1.0, 0.25, 1.0, 1.0]


@pytest.mark.parametrize(
    ("weight_decay_on", "expected"),
    [("matrices", "w"), ("all_but_biases", "wns"), ("all_but_vectors", "ws")],
)
def test_what_decays(weight_decay_on, expected):
    names = {
        "w": "clip.visual.proj",
        "n": "clip.ln_final.weight",
        "b": "clip.ln_final.bias",
        "s": "clip.logit_scale",
    }
    shapes = {"w": (2, 2), "n": (2,), "b": (2,), "s": ()}
    parameters = [(name, nn.Parameter(torch.zeros(shapes[key]))) for key, name in names.items()]
    groups = parameter_groups(parameters, OptimConfig(weight_decay_on=weight_decay_on))
    decays = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert "".join(k for k, (_, p) in zip(names, parameters, strict=True) if id(p) in decays) == expected


def test_the_learning_rate_goes_with_the_batch():
    assert peak_lr(OptimConfig(lr=1e-3, base_batch_size=256), 64) == pytest.approx(2.5e-4)
    assert peak_lr(OptimConfig(lr=1e-3, base_batch_size=0), 64) == 1e-3


def test_groups_follow_tower_and_shape():
    config = OptimConfig(text_lr_factor=0.5, tower_lr_factor=0.1, weight_decay=0.2)
    parameters = named(
        temporal__0__up__weight=(2, 2),
        temporal__0__up__bias=(2,),
        clip__visual__conv1__weight=(2, 2, 1, 1),
        clip__ln_final__weight=(2,),
        clip__text_projection=(2, 2),
    )
    parameters[0][1].requires_grad_(True)
    groups = parameter_groups(parameters, config)
    found = {(group["lr_factor"], group["weight_decay"]): len(group["params"]) for group in groups}
    assert found == {(1.0, 0.2): 1, (1.0, 0.0): 1, (0.1, 0.2): 1, (0.05, 0.0): 1, (0.05, 0.2): 1}
    optimizer = build_optimizer(groups, config)
    set_lr(optimizer, 2.0)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([0.1, 0.1, 0.2, 2, 2])


def test_frozen_parameters_are_left_out():
    parameters = named(a__weight=(2, 2), b__weight=(2, 2))
    parameters[0][1].requires_grad_(False)
    (group,) = parameter_groups(parameters, OptimConfig())
    assert group["params"][0] is parameters[1][1]


@pytest.mark.parametrize(
    "values", [{"lr": 0}, {"weight_decay": -1}, {"warmup_epochs": -1}, {"layer_decay": 0}]
)
def test_settings_that_make_no_sense_are_refused(values):
    with pytest.raises(VactkError, match=next(iter(values))):
        OptimConfig(**values)
