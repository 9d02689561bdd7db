"""vactk, the Video-Action CLIP ToolKit. Names are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "BackboneConfig": "vactk.models.backbone",
    "EvalConfig": "vactk.evaluate.config",
    "Index": "vactk.retrieval.library",
    "Model": "vactk.evaluate.model",
    "ModelConfig": "vactk.models.video_model",
    "NeighbourAttentionConfig": "vactk.models.temporal.frame_attention",
    "Predictor": "vactk.evaluate.predictor",
    "STAdapterConfig": "vactk.models.temporal.adapters",
    "TEDAdapterConfig": "vactk.models.temporal.adapters",
    "VactkError": "vactk.errors",
    "VideoCLIP": "vactk.models.video_clip",
    "VideoError": "vactk.video",
    "load_model": "vactk.evaluate.model",
    "new_model": "vactk.models.video_model",
    "open_video": "vactk.video",
    "sample_video": "vactk.video",
    "save_model": "vactk.evaluate.model",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vactk' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
