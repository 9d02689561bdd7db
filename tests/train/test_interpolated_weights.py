from __future__ import annotations

import pytest
import torch
from torch import nn

from vactk.errors import VactkError
from vactk.train.interpolated_weights import Anchor, InterpolatedConfig


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


def moved(module):
    """The module with other weights, and the ones before."""
    originals = {name: p.detach().clone() for name, p in module.named_parameters()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module, originals


@pytest.mark.parametrize("chain_rule", [False, True])
def test_the_gradient_is_that_of_the_formula(chain_rule):
    module, originals = moved(net())
    config = InterpolatedConfig(weight=0.5, chain_rule=chain_rule)
    anchor, alpha, x = Anchor(module.named_parameters(), originals), 0.37, torch.randn(6, 4)

    with anchor.mixed(alpha):
        (module(x).square().sum() * config.loss_weight(alpha)).backward()
    module(x).square().sum().backward()

    for name, parameter in module.named_parameters():
        present = {n: p.detach().clone().requires_grad_(True) for n, p in module.named_parameters()}
        mixed = {n: alpha * originals[n] + (1 - alpha) * p for n, p in present.items()}
        if not chain_rule:
            mixed = {n: p.detach().requires_grad_(True) for n, p in mixed.items()}
        loss = 0.5 * torch.func.functional_call(module, mixed, (x,)).square().sum()
        (second,) = torch.autograd.grad(loss, present[name] if chain_rule else mixed[name])
        (first,) = torch.autograd.grad(
            torch.func.functional_call(module, present, (x,)).square().sum(), present[name]
        )
        torch.testing.assert_close(parameter.grad, first + second)


def test_the_weights_come_back_to_the_last_bit_even_after_an_error():
    module, originals = moved(net())
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    anchor = Anchor(module.named_parameters(), originals)
    with pytest.raises(KeyboardInterrupt), anchor.mixed(1.0):
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.detach(), originals[name])
        raise KeyboardInterrupt
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_what_is_frozen_is_left_alone():
    module = net()
    module[0].requires_grad_(False)
    anchor = Anchor(module.named_parameters(), {"0.weight": torch.zeros(5, 4), "2.weight": torch.zeros(2, 5)})
    with anchor.mixed(1.0):
        assert module[0].weight.abs().sum() > 0
        assert module[2].weight.abs().sum() == 0


def test_alphas_are_drawn_by_seed_and_fill_the_range():
    config = InterpolatedConfig(weight=1, alphas=(0.2, 0.6))
    drawn = [config.sample_alpha(seed) for seed in range(300)]
    assert drawn == [config.sample_alpha(seed) for seed in range(300)]
    assert 0.2 <= min(drawn) < 0.22
    assert 0.58 < max(drawn) <= 0.6


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"alphas": (0.5, 0.2)}, {"alphas": (0.0, 1.5)}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(VactkError):
        InterpolatedConfig(**wrong)
