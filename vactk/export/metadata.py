"""JSON metadata of exported files, enough to use them without this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import vactk
from vactk import config as settings
from vactk.data.config import DataConfig
from vactk.models.video_model import VideoModel
from vactk.video.transforms import EVAL_CROPS

METADATA_FORMAT = 1
SCALED = {
    "clip": "bicubic (a = -0.5), antialiased, as uint8; crops at the nearest pixel, halves to even",
    "openvclip": "bilinear, not antialiased, as float32; crops at the next pixel",
    "m2clip": "bicubic (a = -0.75), not antialiased, as float32; crops at the pixel before",
}


@dataclass(frozen=True)
class Labels:
    """The classes of a classifier: their labels, as words, and their embeddings (C, E) of unit norm."""

    names: tuple[str, ...]
    words: tuple[str, ...]
    embeddings: Tensor


@dataclass(frozen=True, kw_only=True)
class InferenceSpec:
    """Inputs of a model and the kind of its answers, as in `vactk zeroshot`."""

    data: DataConfig
    templates: tuple[str, ...]
    source: Mapping[str, Any]  # the checkpoint: name, SHA-256, recipe
    labels: Labels | None = None
    answer: str = "similarity"  # or "class_head", "ensemble"


def general_metadata(model: VideoModel, inference: InferenceSpec) -> dict[str, Any]:
    """Return the metadata that every file has."""
    return {
        "format": METADATA_FORMAT,
        "vactk": vactk.__version__,
        "source": dict(inference.source),
        "model": settings.to_dict(model.config),
    }


def video_metadata(model: VideoModel, inference: InferenceSpec, frames: int | None) -> dict[str, Any]:
    """Return how a video becomes the input; `frames` is the number that the file takes, None for any."""
    data, backbone = inference.data, model.backbone
    return {
        "input": "video: batch x frames x 3 x height x width, float32, (RGB / 255 - mean) / std",
        "frames": {"takes": frames or "any", "usual": data.num_frames},
        "sampling": settings.to_dict(data)["sampling"],
        "views": data.views,
        "view_mean": data.view_mean,
        "preprocessing": {
            "size": backbone.image_size,
            "short_side": data.transform.eval_short_side or backbone.image_size,
            "scaling": data.transform.scaling,
            "resize": f"shorter side to short_side, the other rounded down; {SCALED[data.transform.scaling]}",
            "crops": list(EVAL_CROPS[data.transform.eval_crops]),  # places along the longer side
            "mean": list(backbone.mean),
            "std": list(backbone.std),
        },
        "similarity": model.config.similarity,
    }


def text_metadata(model: VideoModel, length: int, *, any_length: bool) -> dict[str, Any]:
    """Return how a text becomes the input."""
    tokenizer = model.backbone.tokenize
    known = hasattr(tokenizer, "sot_token_id")
    return {
        "input": "tokens: batch x length, int64",
        "length": {"takes": f"2 to {length}" if any_length else length, "context": length},
        "tokenizer": {
            "kind": "CLIP byte-pair encoding, lower case" if known else "Hugging Face",
            "vocabulary": tokenizer.vocab_size if known else getattr(tokenizer.tokenizer, "name_or_path", ""),
            "start": tokenizer.sot_token_id if known else None,
            "end": tokenizer.eot_token_id if known else None,
            "padding": 0 if known else tokenizer.tokenizer.pad_token_id,
        },
        "logit_scale": float(model.video_clip.logit_scale.detach()),
    }


def label_metadata(inference: InferenceSpec, labels: Labels) -> dict[str, Any]:
    """Return the classes of a classifier and how they were embedded."""
    return {
        "labels": list(labels.names),
        "words": list(labels.words),
        "templates": list(inference.templates),
        "answer": inference.answer,
    }
