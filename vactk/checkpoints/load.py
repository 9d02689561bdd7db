"""Load video checkpoints from files and folders of any project.

vactk checkpoints carry metadata; other projects' files are recognised by their parameter names. Settings that a
file does not hold, such as how its frames attend to each other, are as published and can be stated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vactk import config as settings
from vactk.checkpoints.checkpoint import load_model, read_stored
from vactk.checkpoints.m2clip import is_m2clip, load_m2clip
from vactk.checkpoints.openvclip import (
    is_froster,
    is_openvclip,
    load_froster,
    load_openvclip,
)
from vactk.checkpoints.plain_clip import is_plain, load_folder, load_plain
from vactk.checkpoints.vificlip import is_vificlip, load_vificlip
from vactk.errors import VactkError, first_line
from vactk.models.backbone import BackboneConfig
from vactk.models.temporal.registry import TemporalConfig
from vactk.models.video_model import ModelConfig, VideoModel
from vactk.weights.hub_folder import is_weights_folder
from vactk.weights.safetensors_file import has_metadata
from vactk.weights.torch_file import read_state_dict

# what torch and open_clip raise where a model is built after tensors that do not fit together
UNFIT = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, StopIteration)


@dataclass(frozen=True)
class ForeignKind:
    """Another project's checkpoints: how names of tensors show one, and how it is loaded."""

    title: str
    recognise: Callable[[Iterable[str]], bool]
    load: Callable[[Path, dict[str, Tensor], BackboneConfig | None, TemporalConfig | None], VideoModel]


def open_model(
    path: Path, stated: Mapping[str, Any] | None = None, *, tensors: dict[str, Tensor] | None = None
) -> VideoModel:
    """The model of a vactk checkpoint, a run folder, or another project's checkpoint, on the CPU.

    `stated` holds settings of ModelConfig: of another project's file the `backbone` and the `temporal` module,
    of vactk's own, which say both, no more than `backbone.pretrained`, where its frozen weights now lie. Raises
    VactkError when more is stated, and as `load_model` and `load_foreign` do. `tensors`: those of another project's
    file, where they were read already.
    """
    stated = stated or {}
    if is_foreign(path):
        config = settings.build(ModelConfig, stated)
        backbone = config.backbone if stated.get("backbone") else None
        temporal = config.temporal if "temporal" in stated else None
        if tensors is not None:
            return _load_tensors(path, tensors, backbone, temporal)
        return load_foreign(path, backbone, temporal)
    return load_model(path, pretrained=_stated_weights(stated))


def config_of(path: Path, stated: Mapping[str, Any] | None = None) -> ModelConfig:
    """The config of what `open_model` gives; of vactk's own checkpoints, no tensor is read for it."""
    if is_foreign(path):
        return open_model(path, stated).config
    return read_stored(path, pretrained=_stated_weights(stated or {})).config


def _stated_weights(stated: Mapping[str, Any]) -> str:
    """Return the path of backbone weights, the only setting that may be stated of vactk's own checkpoint."""
    backbone = dict(stated.get("backbone", {}))
    if "name" in backbone:
        raise VactkError("a checkpoint names its own backbone: leave out --backbone")
    if "temporal" in stated:
        raise VactkError("a checkpoint names its own temporal module: leave out --temporal")
    return str(backbone.get("pretrained", ""))


def is_foreign(path: Path) -> bool:
    """Whether a file or folder is for `load_foreign`, and not one of vactk's own."""
    if path.is_dir():
        own = path / "model.safetensors"
        return is_weights_folder(path) and not (own.is_file() and has_metadata(own))
    return path.is_file() and not (path.suffix == ".safetensors" and has_metadata(path))


def load_foreign(
    path: Path, backbone: BackboneConfig | None = None, temporal: TemporalConfig | None = None
) -> VideoModel:
    """The model of another project's checkpoint, in evaluation mode on the CPU.

    A video checkpoint, or a plain CLIP: OpenAI's archives, open_clip's files and folders, Hugging Face's
    folders. Without `backbone`, the architecture is read off the tensors, or the folder's configuration, where
    these tell it; without `temporal`, it is as the project published it. `info["import"]` lists tensors that
    were mapped, missing and left over. Raises VactkError when the file is damaged, of no known kind, or
    does not fit the two.
    """
    if path.is_dir():
        return load_folder(path, backbone, temporal)
    return _load_tensors(path, read_state_dict(path), backbone, temporal)


def _load_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    backbone: BackboneConfig | None,
    temporal: TemporalConfig | None,
) -> VideoModel:
    if kind := find_kind(tensors):
        try:
            return kind.load(path, tensors, backbone, temporal)
        except UNFIT as error:
            reason = first_line(error)
            raise VactkError(f"'{path}' does not fit together as {kind.title}'s ({reason})") from error
    if is_plain(tensors):
        return load_plain(path, tensors, backbone, temporal)
    known = ", ".join(kind.title for kind in FOREIGN.values())
    raise VactkError(
        f"'{path}' is not a checkpoint that vactk knows: {known}, a plain CLIP of OpenAI's or open_clip's, "
        "or its own .safetensors"
    )


def find_kind(names: Iterable[str]) -> ForeignKind | None:
    """The project whose video checkpoints have tensors of such names, or None."""
    return next((kind for kind in FOREIGN.values() if kind.recognise(names)), None)


FOREIGN = {
    "m2clip": ForeignKind("M2-CLIP", is_m2clip, load_m2clip),
    "vificlip": ForeignKind("ViFi-CLIP", is_vificlip, load_vificlip),
    "froster": ForeignKind("FROSTER", is_froster, load_froster),
    "openvclip": ForeignKind("Open-VCLIP", is_openvclip, load_openvclip),
}
