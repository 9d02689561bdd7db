"""The checkpoints that are merged: the tensors of each, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vactk import config as settings
from vactk.checkpoints.checkpoint import read_stored
from vactk.checkpoints.load import find_kind, is_foreign, open_model
from vactk.files.hashing import sha256
from vactk.models.backbone import BackboneConfig, load_backbone, plain_names
from vactk.models.video_model import TOWERS, Heads, ModelConfig
from vactk.weights.hub_folder import open_weights_folder
from vactk.weights.streaming import DictTensors, FileTensors, TensorReader
from vactk.weights.torch_file import read_state_dict


@dataclass(frozen=True)
class MergeInput:
    """A checkpoint to merge."""

    label: str  # as the user named it
    source: TensorReader  # its tensors; a plain CLIP's under its own names
    sha256: str
    config: ModelConfig | None = None  # None: a file of plain weights
    heads: Heads = field(default_factory=Heads)
    towers: tuple[str, ...] = TOWERS  # of CLIP, in the file
    info: Mapping[str, Any] = field(default_factory=dict)
    is_foreign: bool = False


def open_merge_input(path: Path, stated: Mapping[str, Any]) -> MergeInput:
    """Open anything that `open_model` takes, or a file of plain weights under whatever names.

    `stated` holds settings of ModelConfig, as for `open_model`. Plain weights and vactk's own checkpoints are read
    as they are merged, all others at once. Raises VactkError when it cannot be read.
    """
    if not is_foreign(path):
        return _open_own(path, stated)
    tensors = None
    if path.is_file():
        tensors = None if path.suffix == ".safetensors" else read_state_dict(path)
        source = FileTensors(path) if tensors is None else DictTensors(tensors)
        if find_kind(source.entries) is None:
            return MergeInput(str(path), source, sha256(path))
    model = open_model(path, stated, tensors=tensors)
    source = DictTensors(model.module_dict().state_dict())
    digest = sha256(open_weights_folder(path).file if path.is_dir() else path)
    return MergeInput(str(path), source, digest, model.config, model.heads, TOWERS, model.info, True)


def _open_own(path: Path, stated: Mapping[str, Any]) -> MergeInput:
    file, config, heads, towers, _, info = read_stored(path)
    backbone = stated.get("backbone", {})
    if "pretrained" in backbone and "name" not in backbone:
        config = replace(config, backbone=replace(config.backbone, pretrained=backbone["pretrained"]))
    return MergeInput(str(path), FileTensors(file), sha256(file), config, heads, towers, info)


def open_backbone(stated: Mapping[str, Any]) -> MergeInput:
    """A plain CLIP by name, from settings of BackboneConfig."""
    config = settings.build(BackboneConfig, stated)
    clip = load_backbone(config).clip
    return MergeInput(f"the plain {config.name}", DictTensors(clip.state_dict()), "")


def original_tensors(config: BackboneConfig) -> TensorReader:
    """The weights of a backbone under the names of vactk's checkpoints; streamed where their file allows it."""
    for name in (config.pretrained, config.name):
        if Path(name).suffix == ".safetensors" and Path(name).is_file():
            clip = load_backbone(config, weights=False).clip
            return rename_plain(FileTensors(Path(name)), clip.state_dict())
    clip = load_backbone(config).clip
    return DictTensors({f"clip.{name}": tensor for name, tensor in clip.state_dict().items()})


def rename_plain(source: TensorReader, own: Iterable[str]) -> TensorReader:
    """A plain CLIP's tensors under the names of vactk's checkpoints. `own` are the names of the model's CLIP."""
    names = {f"clip.{ours}": theirs for ours, theirs in plain_names(source.entries, own).items()}
    if isinstance(source, FileTensors):
        return FileTensors(source.path, names)
    return DictTensors({ours: source.read(theirs) for ours, theirs in names.items()})
