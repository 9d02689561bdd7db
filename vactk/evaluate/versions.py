"""The versions that a result depends on."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

import vactk

PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "accelerate",
    "safetensors",
    "numpy",
    "av",
    "decord",
)


def versions() -> dict[str, str | None]:
    """Return the versions of vactk, Python and the packages that results depend on; None where not installed."""
    found: dict[str, str | None] = {"vactk": vactk.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    found["cuda"] = torch.version.cuda
    return found
