"""A video model: CLIP with temporal modules, adapters and heads, built from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn

from vactk import config as settings
from vactk.models.backbone import Backbone, BackboneConfig, load_backbone
from vactk.models.heads import ClassHead, MaskedWordHead
from vactk.models.temporal.adapters import FrameAdapterConfig, NoTemporal
from vactk.models.temporal.registry import TEMPORAL, TemporalConfig
from vactk.models.text_tower import TextAdapterConfig, TextTower
from vactk.models.video_clip import Similarity, VideoCLIP
from vactk.models.vision_tower import vision_tower
from vactk.weights.safetensors_file import fingerprint

TOWERS = ("vision", "text", "scale")  # what can be trained of CLIP; "scale" is its temperature
ADDED = ("temporal", "text_adapters", "frame_adapter")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone and what is added to it."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    temporal: TemporalConfig = field(
        default_factory=NoTemporal, metadata=settings.table(TEMPORAL, "temporal module")
    )
    text_adapter: TextAdapterConfig = field(default_factory=TextAdapterConfig)
    frame_adapter: FrameAdapterConfig = field(default_factory=FrameAdapterConfig)
    similarity: Similarity = "video"  # to text: of a video's mean embedding, or the mean of its frames' own


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The heads of a model: their outputs' names, and how they are built."""

    classes: tuple[str, ...] = ()  # of the class head, in the order of its outputs
    class_head: bool = False
    dropout: float = 0.5  # before the class head
    vocabulary: tuple[str, ...] = ()  # of the masked-word head; empty: there is none

    def knows(self, classes: tuple[str, ...]) -> bool:
        """Whether the class head's outputs are `classes`; where it came without names, by their number."""
        return self.class_head and self.classes in (classes, unnamed(len(classes)))


def unnamed(num_classes: int) -> tuple[str, ...]:
    """Return class numbers as text, the names of a head's classes where they are not known."""
    return tuple(map(str, range(num_classes)))


@dataclass(frozen=True)
class VideoModel:
    """A model, its backbone's tokenizer and preprocessing, and what it was trained on."""

    video_clip: VideoCLIP
    backbone: Backbone
    config: ModelConfig
    heads: Heads
    class_head: ClassHead | None = None
    word_head: MaskedWordHead | None = None
    info: Mapping[str, Any] = field(default_factory=dict)  # recipe, step, ...: as in the file

    def to(self, device: torch.device) -> VideoModel:
        """Move all weights to `device`."""
        self.module_dict().to(device)
        return self

    def module_dict(self) -> nn.ModuleDict:
        """Everything with weights, under the names that files use."""
        modules: dict[str, nn.Module | None] = {
            "clip": self.video_clip.backbone,
            "temporal": self.video_clip.temporal,
            "text_adapters": self.video_clip.text_adapters,
            "frame_adapter": self.video_clip.frame_adapter,
            "class_head": self.class_head,
            "word_head": self.word_head,
        }
        return nn.ModuleDict({name: module for name, module in modules.items() if module is not None})

    def train(self, mode: bool) -> None:
        """Switch dropout and gradient checkpointing on or off."""
        self.module_dict().train(mode)
        self.video_clip.train(mode)


def new_model(config: ModelConfig, heads: Heads | None = None, *, weights: bool = True) -> VideoModel:
    """A model that equals its CLIP, in evaluation mode on the CPU, with new heads.

    Without `weights`, CLIP's own are left random; with them, `info` tells how to rebuild the initial values of
    what was added. Raises VactkError for what in `config` cannot be built.
    """
    heads = heads or Heads()
    seed = torch.initial_seed()
    backbone = load_backbone(config.backbone, weights=weights)
    vision, text = vision_tower(backbone.clip), TextTower(backbone.clip)
    video_clip = VideoCLIP(
        backbone.clip,
        config.temporal.build(vision.width, vision.grid, len(vision.blocks)),
        config.text_adapter.build(text.width, len(text.blocks)),
        config.frame_adapter.build(vision.embed_dim),
    )
    class_head = ClassHead(vision.width, len(heads.classes), heads.dropout) if heads.class_head else None
    word_head = None
    if heads.vocabulary:
        adapters = config.text_adapter.block(text.width)
        word_head = MaskedWordHead(text.width, vision.embed_dim, len(heads.vocabulary), adapters)
    resolved = replace(config, backbone=backbone.config)
    model = VideoModel(video_clip, backbone, resolved, heads, class_head, word_head)
    model.train(False)
    if not weights:
        return model
    added = fingerprint(added_tensors(model.module_dict().state_dict()))
    return replace(model, info={"initial": {"seed": seed, "fingerprint": added}})


def added_tensors(tensors: Mapping[str, T]) -> dict[str, T]:
    """Keep the tensors that were added inside CLIP's towers: neither CLIP's own nor a head's."""
    return {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in ADDED}


def clip_tower_of(name: str) -> str | None:
    """The entry of TOWERS that a tensor belongs to by its name in files; None for what was added to CLIP."""
    if not name.startswith("clip."):
        return None
    if name in ("clip.logit_scale", "clip.logit_bias"):
        return "scale"
    return "vision" if name.startswith("clip.visual.") else "text"
