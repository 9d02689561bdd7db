"""A video model with all that its file must say to rebuild it; saving, loading, and building a new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

import vactk
from vactk import config as settings
from vactk.errors import VactkError
from vactk.models.backbone import Backbone, BackboneConfig, load_backbone
from vactk.models.heads import ClassHead, MaskedWordHead
from vactk.models.pooling import Similarity
from vactk.models.temporal import FrameAdapterConfig, NoTemporal
from vactk.models.temporal_table import TEMPORAL, TemporalConfig
from vactk.models.text_tower import TextAdapterConfig, TextTower
from vactk.models.video_clip import VideoCLIP
from vactk.weights.files import (
    check_fit,
    fingerprint,
    load_exactly,
    read_metadata,
    read_tensors,
    save_tensors,
)

FORMAT = 1
TOWERS = ("vision", "text", "scale")  # the parts of CLIP; "scale" is its temperature
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
    """The heads of a model: what they tell apart, and how they are built."""

    classes: tuple[str, ...] = ()  # of the class head, in the order of its outputs
    class_head: bool = False
    dropout: float = 0.5  # before the class head
    vocabulary: tuple[str, ...] = ()  # of the masked-word head; empty: there is none

    def knows(self, classes: tuple[str, ...]) -> bool:
        """Whether the class head's outputs are `classes`; where it came without names, by their number."""
        return self.class_head and self.classes in (classes, unnamed(len(classes)))


def unnamed(num_classes: int) -> tuple[str, ...]:
    """What stands for the classes of a head that came without their names: their numbers."""
    return tuple(map(str, range(num_classes)))


@dataclass(frozen=True)
class VideoModel:
    """A model, its backbone's tokenizer and preprocessing, and what it was trained on."""

    clip: VideoCLIP
    backbone: Backbone
    config: ModelConfig
    heads: Heads
    class_head: ClassHead | None = None
    word_head: MaskedWordHead | None = None
    info: Mapping[str, Any] = field(default_factory=dict)  # recipe, step, ...: as in the file

    def to(self, device: torch.device) -> None:
        """Move all weights to `device`."""
        self.modules().to(device)

    def modules(self) -> nn.ModuleDict:
        """Everything with weights, under the names that files use."""
        parts: dict[str, nn.Module | None] = {
            "clip": self.clip.clip,
            "temporal": self.clip.temporal,
            "text_adapters": self.clip.text_adapters,
            "frame_adapter": self.clip.frame_adapter,
            "class_head": self.class_head,
            "word_head": self.word_head,
        }
        return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    def train(self, mode: bool) -> None:
        """Switch dropout and gradient checkpointing on or off."""
        self.modules().train(mode)
        self.clip.train(mode)


def new_model(config: ModelConfig, heads: Heads | None = None, *, weights: bool = True) -> VideoModel:
    """A model that equals its CLIP, in evaluation mode on the CPU, with new heads.

    Without `weights`, CLIP's own are left random; with them, `info` tells how to rebuild the initial values of
    what was added. Raises VactkError for what in `config` cannot be built.
    """
    heads = heads or Heads()
    seed = torch.initial_seed()
    backbone = load_backbone(config.backbone, weights=weights)
    visual = cast(Any, backbone.clip).visual
    dim, embed_dim = visual.transformer.width, visual.output_dim
    tower = TextTower(backbone.clip, nn.ModuleList())
    text_dim = cast(Any, tower.tower).ln_final.weight.shape[0]
    clip = VideoCLIP(
        backbone.clip,
        config.temporal.build(dim, tuple(visual.grid_size), len(visual.transformer.resblocks)),
        config.text_adapter.build(text_dim, len(tower.blocks)),
        config.frame_adapter.build(embed_dim),
    )
    class_head = ClassHead(dim, len(heads.classes), heads.dropout) if heads.class_head else None
    word_head = None
    if heads.vocabulary:
        adapters = config.text_adapter.block(text_dim)
        word_head = MaskedWordHead(text_dim, embed_dim, len(heads.vocabulary), adapters)
    resolved = ModelConfig(
        backbone=backbone.config,
        temporal=config.temporal,
        text_adapter=config.text_adapter,
        frame_adapter=config.frame_adapter,
        similarity=config.similarity,
    )
    model = VideoModel(clip, backbone, resolved, heads, class_head, word_head)
    model.train(False)
    if not weights:
        return model
    added = fingerprint(added_tensors(model.modules().state_dict()))
    return replace(model, info={"initial": {"seed": seed, "fingerprint": added}})


def added_tensors(tensors: Mapping[str, T]) -> dict[str, T]:
    """Those that were added inside CLIP's towers: neither CLIP's own nor a head's."""
    return {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in ADDED}


def initial_values(
    config: ModelConfig, initial: Mapping[str, Any] | None, trained: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str]:
    """The values that what was added had before training, and how they were found, in words.

    They are drawn again from the seed in a checkpoint's `initial`, and checked by its fingerprint. Where that
    fails (a file without it, another torch), the identity that is nearest to the `trained` values stands in:
    what starts as a constant is that constant, what starts at random keeps its trained value.
    """
    seed = (initial or {}).get("seed", 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = added_tensors(new_model(config, weights=False).modules().state_dict())
    if initial and fingerprint(fresh) == initial.get("fingerprint"):
        return fresh, f"drawn again from seed {seed}"
    nearest = {
        name: tensor if tensor.unique().numel() == 1 else trained[name].to(tensor.dtype)
        for name, tensor in fresh.items()
    }
    return nearest, "the identity nearest to the trained values, as the seed does not give them back"


def _check_shapes(stored: Stored, tensors: Mapping[str, Tensor]) -> None:
    """Raises VactkError where a file's description is of another model than its tensors.

    It is looked at before the model is built: a description alone could ask for any amount of memory.
    """
    try:
        shapes = shapes_of(stored.config, stored.heads)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VactkError(f"the metadata of '{stored.path}' are damaged: {reason}") from error
    may_lack = shapes.keys() - kept_names(shapes, stored.towers)
    check_fit(shapes, tensors, may_lack=may_lack, source=f"'{stored.path}'")


def shapes_of(config: ModelConfig, heads: Heads) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of a model, without making any."""
    with torch.device("meta"):
        tensors = new_model(config, heads, weights=False).modules().state_dict()
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def part_of_clip(name: str) -> str | None:
    """The part of CLIP that a tensor belongs to, "vision", "text" or "scale"; None for what was added."""
    if not name.startswith("clip."):
        return None
    if name in ("clip.logit_scale", "clip.logit_bias"):
        return "scale"
    return "vision" if name.startswith("clip.visual.") else "text"


def saved_names(modules: nn.ModuleDict, towers: tuple[str, ...]) -> set[str]:
    """The tensors that a file holds when `towers` were trained: those and all that was added."""
    return kept_names(modules.state_dict(), towers)


def kept_names(names: Iterable[str], towers: tuple[str, ...]) -> set[str]:
    """Of a whole model's names those that `saved_names` gives."""
    return {name for name in names if part_of_clip(name) in (None, *towers)}


def save_model(path: Path, model: VideoModel, *, towers: tuple[str, ...], info: Mapping[str, Any]) -> None:
    """What was trained (`towers`, and all that was added) into a safetensors file that can rebuild the model.

    `info` is anything JSON-able worth keeping: recipe, step, parents. Raises VactkError as `save_tensors`.
    """
    modules = model.modules()
    tensors = modules.state_dict()
    saved = saved_names(modules, towers)
    frozen = fingerprint({name: tensors[name] for name in tensors.keys() - saved})
    metadata = {
        **checkpoint_metadata(model.config, model.heads, towers, frozen),
        "initial": model.info.get("initial"),
        **info,
    }
    save_tensors(path, {name: tensors[name] for name in saved}, metadata)


def checkpoint_metadata(
    config: ModelConfig, heads: Heads, towers: tuple[str, ...], frozen_fingerprint: str
) -> dict[str, Any]:
    """What every checkpoint must say of itself."""
    return {
        "format": FORMAT,
        "version": vactk.__version__,
        "model": settings.to_dict(config),
        "heads": settings.to_dict(heads),
        "towers": list(towers),
        "frozen_fingerprint": frozen_fingerprint,
    }


class Stored(NamedTuple):
    """What a checkpoint says of itself."""

    path: Path  # of the file itself
    config: ModelConfig
    heads: Heads
    towers: tuple[str, ...]
    frozen_fingerprint: str
    info: Mapping[str, Any]  # all of it


def read_stored(path: Path, *, pretrained: str = "") -> Stored:
    """What the vactk checkpoint at `path`, or in the run folder there, says of itself; no tensor is read.

    `pretrained` as in `load_model`. Raises VactkError when the file is not ours or damaged.
    """
    path = path / "model.safetensors" if path.is_dir() else path
    info = read_metadata(path)
    if info.get("format") != FORMAT:
        raise VactkError(
            f"'{path}' has checkpoint format {info.get('format')}, this vactk reads {FORMAT}; install another vactk"
        )
    try:
        model = dict(info["model"])
        if pretrained:
            model["backbone"] = {**model["backbone"], "pretrained": pretrained}
        config, heads = settings.build(ModelConfig, model), settings.build(Heads, info["heads"])
        return Stored(path, config, heads, tuple(info["towers"]), info["frozen_fingerprint"], info)
    except (KeyError, TypeError, ValueError) as error:
        raise VactkError(f"the metadata of '{path}' are damaged: {error}") from error


def load_model(path: Path, *, pretrained: str = "") -> VideoModel:
    """The model of a vactk checkpoint, or of the run folder that holds one, in evaluation mode on the CPU.

    `pretrained` names the frozen backbone's weights where they now lie elsewhere than in training. Raises
    VactkError when the file is not ours, damaged, or was trained on another backbone.
    """
    stored = read_stored(path, pretrained=pretrained)
    path, config, heads, towers, expected, info = stored
    tensors = read_tensors(path)
    _check_shapes(stored, tensors)
    model = new_model(config, heads, weights=set(towers) != set(TOWERS))
    modules = model.modules()
    may_lack = modules.state_dict().keys() - saved_names(modules, towers)
    frozen = {name: tensor for name, tensor in modules.state_dict().items() if name in may_lack}
    if fingerprint(frozen) != expected:
        raise VactkError(
            f"'{path}' was trained on other weights of backbone '{model.config.backbone.name}' than "
            f"'{model.config.backbone.pretrained}' holds; give the right file with --pretrained FILE"
        )
    load_exactly(modules, tensors, may_lack=may_lack, source=f"'{path}'")
    return VideoModel(
        model.clip, model.backbone, model.config, heads, model.class_head, model.word_head, info
    )
