"""A video model with all that its file must say to rebuild it; saving, loading, and building a new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import vactk
from vactk import config as settings
from vactk.errors import VactkError, first_line
from vactk.models.video_model import (
    TOWERS,
    Heads,
    ModelConfig,
    VideoModel,
    added_tensors,
    new_model,
    part_of_clip,
)
from vactk.weights.safetensors_file import (
    check_fit,
    fingerprint,
    load_exactly,
    read_metadata,
    read_tensors,
    save_tensors,
)

FORMAT = 1


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
        fresh = added_tensors(new_model(config, weights=False).module_dict().state_dict())
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
        raise VactkError(f"the metadata of '{stored.path}' are damaged: {first_line(error)}") from error
    may_lack = shapes.keys() - kept_names(shapes, stored.towers)
    check_fit(shapes, tensors, may_lack=may_lack, source=f"'{stored.path}'")


def shapes_of(config: ModelConfig, heads: Heads) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of a model, without making any."""
    with torch.device("meta"):
        tensors = new_model(config, heads, weights=False).module_dict().state_dict()
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


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
    modules = model.module_dict()
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
    modules = model.module_dict()
    may_lack = modules.state_dict().keys() - saved_names(modules, towers)
    frozen = {name: tensor for name, tensor in modules.state_dict().items() if name in may_lack}
    if fingerprint(frozen) != expected:
        raise VactkError(
            f"'{path}' was trained on other weights of backbone '{model.config.backbone.name}' than "
            f"'{model.config.backbone.pretrained}' holds; give the right file with --pretrained FILE"
        )
    load_exactly(modules, tensors, may_lack=may_lack, source=f"'{path}'")
    return VideoModel(
        model.video_clip, model.backbone, model.config, heads, model.class_head, model.word_head, info
    )
