"""The checkpoints that are mixed: the tensors of each, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vactk import config as settings
from vactk.checkpoints.checkpoint import FORMAT
from vactk.checkpoints.load import FOREIGN, load_foreign
from vactk.errors import VactkError
from vactk.files.hashing import sha256
from vactk.models.backbone import BackboneConfig, load_backbone, plain_names
from vactk.models.video_model import TOWERS, Heads, ModelConfig
from vactk.weights.safetensors_file import has_metadata, read_metadata
from vactk.weights.streaming import DictTensors, FileTensors, TensorReader
from vactk.weights.torch_file import read_state_dict

CHECKPOINT = "model.safetensors"  # in a run folder


@dataclass(frozen=True)
class MergeInput:
    """A checkpoint that takes part in a mixture."""

    label: str  # as the user named it
    source: TensorReader  # what the file holds; a plain CLIP's under its own names
    sha256: str
    config: ModelConfig | None = None  # None: a plain CLIP's weights
    heads: Heads = field(default_factory=Heads)
    towers: tuple[str, ...] = TOWERS  # of CLIP, in the file
    info: Mapping[str, Any] = field(default_factory=dict)
    is_foreign: bool = False


def open_merge_input(path: Path, stated: Mapping[str, Any]) -> MergeInput:
    """A vactk checkpoint, a run folder, another project's video checkpoint, or a plain CLIP's weights.

    `stated` holds settings of ModelConfig, as for `open_model`. Raises VactkError when it cannot be read.
    """
    file = path / CHECKPOINT if path.is_dir() and (path / CHECKPOINT).exists() else path
    if file.suffix != ".safetensors" and file.is_file():
        return _foreign_side(path, stated)
    if not has_metadata(file):
        return MergeInput(str(path), FileTensors(file), sha256(file))
    info = read_metadata(file)
    if info.get("format") != FORMAT:
        raise VactkError(f"'{path}' has checkpoint format {info.get('format')}, this vactk reads {FORMAT}")
    try:
        config = settings.build(ModelConfig, info["model"])
        heads = settings.build(Heads, info["heads"])
        towers = tuple(info["towers"])
        expected = info["frozen_fingerprint"]
    except (KeyError, TypeError, VactkError) as error:
        raise VactkError(f"the metadata of '{path}' are damaged: {error}") from error
    assert isinstance(expected, str)
    pretrained = stated.get("backbone", {}).get("pretrained")
    if pretrained and "name" not in stated["backbone"]:
        config = replace(config, backbone=replace(config.backbone, pretrained=pretrained))
    return MergeInput(str(path), FileTensors(file), sha256(file), config, heads, towers, info)


def _foreign_side(path: Path, stated: Mapping[str, Any]) -> MergeInput:
    tensors = read_state_dict(path)
    if not any(kind.recognise(tensors) for kind in FOREIGN.values()):
        return MergeInput(str(path), DictTensors(tensors), sha256(path))
    config = settings.build(ModelConfig, stated)
    model = load_foreign(
        path,
        config.backbone if stated.get("backbone") else None,
        config.temporal if "temporal" in stated else None,
    )
    towers = tuple(model.info.get("towers", TOWERS))
    source = DictTensors(model.module_dict().state_dict())
    return MergeInput(str(path), source, sha256(path), model.config, model.heads, towers, model.info, True)


def backbone_side(stated: Mapping[str, Any]) -> MergeInput:
    """A plain CLIP by name, from settings of BackboneConfig."""
    config = settings.build(BackboneConfig, stated)
    clip = load_backbone(config).clip
    return MergeInput(f"the plain {config.name}", DictTensors(clip.state_dict()), "")


def original_source(config: BackboneConfig) -> TensorReader:
    """The weights of a backbone under the names of vactk's checkpoints; streamed where their file allows it."""
    for name in (config.pretrained, config.name):
        if Path(name).suffix == ".safetensors" and Path(name).is_file():
            clip = load_backbone(config, weights=False).clip
            return plain_source(FileTensors(Path(name)), set(clip.state_dict()))
    clip = load_backbone(config).clip
    return DictTensors({f"clip.{name}": tensor for name, tensor in clip.state_dict().items()})


def plain_source(source: TensorReader, clip_names: set[str]) -> TensorReader:
    """A plain CLIP's tensors under the names of vactk's checkpoints. `clip_names` are those of the model."""
    apart = any(name.startswith("text.") for name in clip_names)
    names = {f"clip.{ours}": theirs for ours, theirs in plain_names(source.entries, text_apart=apart).items()}
    if isinstance(source, FileTensors):
        return FileTensors(source.path, names)
    return DictTensors({ours: source.read(theirs) for ours, theirs in names.items()})
