"""The checkpoints that are mixed: the tensors of each, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vactk import config as settings
from vactk.errors import VactkError
from vactk.models.backbone import BackboneConfig, load_backbone, plain_names
from vactk.models.checkpoint import FORMAT, TOWERS, Heads, ModelConfig
from vactk.models.foreign import FOREIGN, load_foreign
from vactk.weights.files import has_metadata, read_metadata
from vactk.weights.foreign import read_state_dict
from vactk.weights.stream import DictSource, FileSource, Source, sha256

CHECKPOINT = "model.safetensors"  # in a run folder


@dataclass(frozen=True)
class Side:
    """A checkpoint that takes part in a mixture."""

    label: str  # as the user named it
    source: Source  # what the file holds; a plain CLIP's under its own names
    sha256: str
    config: ModelConfig | None = None  # None: a plain CLIP's weights
    heads: Heads = field(default_factory=Heads)
    towers: tuple[str, ...] = TOWERS  # of CLIP, in the file
    info: Mapping[str, Any] = field(default_factory=dict)
    is_foreign: bool = False


def open_side(path: Path, stated: Mapping[str, Any]) -> Side:
    """A vactk checkpoint, a run folder, another project's video checkpoint, or a plain CLIP's weights.

    `stated` holds settings of ModelConfig, as for `open_model`. Raises VactkError when it cannot be read.
    """
    file = path / CHECKPOINT if path.is_dir() and (path / CHECKPOINT).exists() else path
    if file.suffix != ".safetensors" and file.is_file():
        return _foreign_side(path, stated)
    if not has_metadata(file):
        return Side(str(path), FileSource(file), sha256(file))
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
    return Side(str(path), FileSource(file), sha256(file), config, heads, towers, info)


def _foreign_side(path: Path, stated: Mapping[str, Any]) -> Side:
    tensors = read_state_dict(path)
    if not any(kind.recognise(tensors) for kind in FOREIGN.values()):
        return Side(str(path), DictSource(tensors), sha256(path))
    config = settings.build(ModelConfig, stated)
    model = load_foreign(
        path,
        config.backbone if stated.get("backbone") else None,
        config.temporal if "temporal" in stated else None,
    )
    towers = tuple(model.info.get("towers", TOWERS))
    source = DictSource(model.modules().state_dict())
    return Side(str(path), source, sha256(path), model.config, model.heads, towers, model.info, True)


def backbone_side(stated: Mapping[str, Any]) -> Side:
    """A plain CLIP by name, from settings of BackboneConfig."""
    config = settings.build(BackboneConfig, stated)
    clip = load_backbone(config).clip
    return Side(f"the plain {config.name}", DictSource(clip.state_dict()), "")


def original_source(config: BackboneConfig) -> Source:
    """The weights of a backbone under the names of vactk's checkpoints; streamed where their file allows it."""
    for name in (config.pretrained, config.name):
        if Path(name).suffix == ".safetensors" and Path(name).is_file():
            clip = load_backbone(config, weights=False).clip
            return plain_source(FileSource(Path(name)), set(clip.state_dict()))
    clip = load_backbone(config).clip
    return DictSource({f"clip.{name}": tensor for name, tensor in clip.state_dict().items()})


def plain_source(source: Source, clip_names: set[str]) -> Source:
    """A plain CLIP's tensors under the names of vactk's checkpoints. `clip_names` are those of the model."""
    apart = any(name.startswith("text.") for name in clip_names)
    names = {f"clip.{ours}": theirs for ours, theirs in plain_names(source.entries, text_apart=apart).items()}
    if isinstance(source, FileSource):
        return FileSource(source.path, names)
    return DictSource({ours: source.read(theirs) for ours, theirs in names.items()})
