"""A CLIP small enough for tests, with random weights everywhere."""

from __future__ import annotations

import pytest
import torch

import vactk.torchvision_ops  # noqa: F401

# isort: split
import open_clip

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 60, "width": 32, "heads": 2, "layers": 2},
}


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Random values of healthy size in every parameter, biases and norms too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = 0.15 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if name.endswith(("ln_1.weight", "ln_2.weight")) else noise)


@pytest.fixture
def tiny_clip():
    clip = open_clip.CLIP(**TINY).eval()
    randomise(clip)
    return clip
