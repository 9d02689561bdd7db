"""Video checkpoints by their file, whichever project wrote them.

vactk's own say what they are. Of other projects' files the names of the tensors tell; what such a file does not
say, as how its frames attend to each other, is assumed as published and can be set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from vactk import config as settings
from vactk.errors import VactkError
from vactk.models.backbone import BackboneConfig, load_backbone, named_config
from vactk.models.checkpoint import (
    Heads,
    ModelConfig,
    VideoModel,
    load_model,
    new_model,
    read_stored,
    unnamed,
)
from vactk.models.frame_attention import CrossFrameAttentionConfig, NeighbourAttentionConfig
from vactk.models.plain import fill, is_plain, load_folder, load_plain
from vactk.models.temporal import FrameAdapterConfig, NoTemporal, STAdapterConfig, TEDAdapterConfig
from vactk.models.temporal_table import TemporalConfig
from vactk.models.text_tower import TextAdapterConfig, TextTower
from vactk.weights.files import has_metadata
from vactk.weights.folders import is_weights_folder
from vactk.weights.foreign import read_state_dict
from vactk.weights.m2clip import is_m2clip, rename_m2clip
from vactk.weights.openvclip import is_froster, is_openvclip, rename_openvclip
from vactk.weights.vificlip import ABSENT, CLASS_PROMPTS, is_vificlip, rename_vificlip

# the test protocol of Open-VCLIP's release, in the words of a recipe
OPENVCLIP_RECIPE = {
    "templates": "openvclip",
    "data": {
        "num_frames": 8,
        "views": 3,
        "view_mean": "logits",
        "sampling": {"name": "openvclip", "stride": 16},
        "transform": {"scaling": "openvclip"},
    },
}
# the test protocols of M2-CLIP's release for Kinetics-400, and by the number of classes that a file's head has
M2CLIP_RECIPE: dict[str, Any] = {
    "templates": "video",
    "data": {
        "num_frames": 8,
        "views": 3,
        "sampling": {"name": "m2clip", "stride": 16},
        "transform": {"scaling": "m2clip", "eval_crops": 4},
    },
}
M2CLIP_RECIPES = {
    174: settings.merge(  # Something-Something v2
        M2CLIP_RECIPE, {"data": {"views": 1, "sampling": {"stride": 0}, "transform": {"eval_crops": 3}}}
    )
}
# the test protocol of ViFi-CLIP's release
VIFICLIP_RECIPE = {"templates": "plain", "data": {"num_frames": 32}}
# what torch and open_clip raise where a model is built after tensors that do not fit together
UNFIT = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, StopIteration)
PLACES: tuple[Literal["pre_attn", "pre_mlp"], ...] = ("pre_attn", "pre_mlp")


@dataclass(frozen=True)
class ForeignKind:
    """A kind of file: how its tensors' names show it, and how they become a model."""

    title: str
    recognise: Callable[[Mapping[str, Tensor]], bool]
    load: Callable[[Path, dict[str, Tensor], BackboneConfig | None, TemporalConfig | None], VideoModel]


def open_model(path: Path, stated: Mapping[str, Any] | None = None) -> VideoModel:
    """The model of a vactk checkpoint, a run folder, or another project's checkpoint, on the CPU.

    `stated` holds settings of ModelConfig: of another project's file the `backbone` and the `temporal` module,
    of vactk's own, which say both, no more than `backbone.pretrained`, where its frozen weights now lie. Raises
    VactkError when more is stated, and as `load_model` and `load_foreign` do.
    """
    stated = stated or {}
    if is_foreign(path):
        config = settings.build(ModelConfig, stated)
        return load_foreign(
            path,
            config.backbone if stated.get("backbone") else None,
            config.temporal if "temporal" in stated else None,
        )
    return load_model(path, pretrained=_stated_weights(stated))


def config_of(path: Path, stated: Mapping[str, Any] | None = None) -> ModelConfig:
    """The config of what `open_model` gives; of vactk's own checkpoints, no tensor is read for it."""
    if is_foreign(path):
        return open_model(path, stated).config
    return read_stored(path, pretrained=_stated_weights(stated or {})).config


def _stated_weights(stated: Mapping[str, Any]) -> str:
    """All that may be stated of vactk's own checkpoint: where the weights of its backbone lie."""
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
    these tell it; without `temporal`, it is as the project published it. `info["import"]` says what of the
    file was mapped, missing and left over. Raises VactkError when the file is damaged, of no known kind, or
    does not fit the two.
    """
    if path.is_dir():
        return load_folder(path, backbone, temporal)
    tensors = read_state_dict(path)
    for kind in FOREIGN.values():
        if kind.recognise(tensors):
            try:
                return kind.load(path, tensors, backbone, temporal)
            except UNFIT as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise VactkError(f"'{path}' does not fit together as {kind.title}'s ({reason})") from error
    if is_plain(tensors):
        return load_plain(path, tensors, backbone, temporal)
    known = ", ".join(kind.title for kind in FOREIGN.values())
    raise VactkError(
        f"'{path}' is no checkpoint that vactk knows: {known}, a plain CLIP of OpenAI's or open_clip's, "
        "or its own .safetensors"
    )


def _load_openvclip(
    path: Path,
    tensors: dict[str, Tensor],
    backbone: BackboneConfig | None,
    temporal: TemporalConfig | None,
    *,
    title: str = "Open-VCLIP",
    recipe: Mapping[str, Any] = OPENVCLIP_RECIPE,
) -> VideoModel:
    clip = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    if backbone is None:  # OpenAI's CLIPs, which Open-VCLIP starts from, have quick_gelu
        backbone = named_config(clip, quick_gelu=True) or BackboneConfig(name=str(path), quick_gelu=True)
    config = ModelConfig(
        backbone=backbone, temporal=temporal or _openvclip_attention(clip), similarity="frames"
    )
    model = new_model(config, weights=False)
    report = fill(model, path, title, tensors, rename_openvclip)
    info = {"recipe": recipe, "parents": [{"path": str(path), "kind": title}], **report}
    return dataclasses.replace(model, info=info)


def _load_froster(
    path: Path,
    tensors: dict[str, Tensor],
    backbone: BackboneConfig | None,
    temporal: TemporalConfig | None,
) -> VideoModel:
    recipe = {**OPENVCLIP_RECIPE, "templates": "froster"}
    return _load_openvclip(path, tensors, backbone, temporal, title="FROSTER", recipe=recipe)


def _load_vificlip(
    path: Path,
    tensors: dict[str, Tensor],
    backbone: BackboneConfig | None,
    temporal: TemporalConfig | None,
) -> VideoModel:
    if backbone is None:
        raise VactkError(
            f"'{path}' holds ViFi-CLIP's towers without CLIP's token embedding: name that CLIP with --backbone, "
            "such as --backbone ViT-B-16"
        )
    model = new_model(ModelConfig(backbone=backbone, temporal=temporal or NoTemporal()))

    def knows(name: str) -> bool:
        return name in CLASS_PROMPTS

    report = fill(model, path, "ViFi-CLIP", tensors, rename_vificlip, may_lack=set(ABSENT), known=knows)
    info = {"recipe": VIFICLIP_RECIPE, "parents": [{"path": str(path), "kind": "ViFi-CLIP"}], **report}
    return dataclasses.replace(model, info=info)


def _openvclip_attention(tensors: Mapping[str, Tensor]) -> TemporalConfig:
    """The variant that the parameters show; where there are none of its own, neighbouring frames."""
    found: dict[str, Any] = {name.rsplit(".", 2)[-2]: tensor for name, tensor in tensors.items()}
    if "message_fc" in found:
        return CrossFrameAttentionConfig()
    if "stadapt_down_1" in found:
        weight = tensors["model.visual.transformer.resblocks.0.stadapt_conv3d_1.weight"]
        return STAdapterConfig(width=weight.shape[0], kernel_size=weight.shape[2])
    return NeighbourAttentionConfig()


def _load_m2clip(
    path: Path,
    tensors: dict[str, Tensor],
    backbone: BackboneConfig | None,
    temporal: TemporalConfig | None,
) -> VideoModel:
    if backbone is None:
        raise VactkError(f"'{path}' holds adapters of M2-CLIP without their CLIP: name it with --backbone")
    if temporal is not None:
        raise VactkError(f"'{path}' shows its own temporal module, TED-Adapters: leave out --temporal")
    clip = load_backbone(backbone, weights=False).clip
    num_text_blocks = len(TextTower(clip, nn.ModuleList()).blocks)
    rename = partial(rename_m2clip, num_text_blocks=num_text_blocks)
    own = rename(tensors)
    model = new_model(_m2clip_config(own, backbone, num_text_blocks), _m2clip_heads(own))
    clip_names = {name for name in model.modules().state_dict() if name.startswith("clip.")}
    report = fill(model, path, "M2-CLIP", tensors, rename, may_lack=clip_names)
    recipe = M2CLIP_RECIPES.get(len(model.heads.classes), M2CLIP_RECIPE)
    info = {"recipe": recipe, "parents": [{"path": str(path), "kind": "M2-CLIP"}], **report}
    return dataclasses.replace(model, info=info)


def _m2clip_config(own: Mapping[str, Tensor], backbone: BackboneConfig, num_text_blocks: int) -> ModelConfig:
    """Placements, widths and kernels as the tensors, under vactk's names, show them."""
    vision = [name for name in own if name.startswith("temporal.")]
    text = [name for name in own if name.startswith(("text_adapters.", "word_head.adapters."))]
    text_blocks = {int(name.split(".")[1]) for name in text if name.startswith("text_adapters.")}
    conv = own[next(name for name in vision if name.endswith("_adapter.conv.weight"))]
    frame_conv = own.get("frame_adapter.conv.weight")
    down = [own[name] for name in text if name.endswith("_adapter.fc1.weight")]
    return ModelConfig(
        backbone=backbone,
        temporal=TEDAdapterConfig(
            width=conv.shape[0],
            kernel_size=conv.shape[2],
            layers=tuple(sorted({int(name.split(".")[1]) for name in vision})),
            placement=_placement(vision),
        ),
        text_adapter=TextAdapterConfig(
            layers=num_text_blocks - min(text_blocks) if text_blocks else 0,
            width=down[0].shape[0] if down else 0,
            placement=_placement(text) if text else "pre_mlp",
        ),
        frame_adapter=FrameAdapterConfig()
        if frame_conv is None
        else FrameAdapterConfig(enabled=True, width=frame_conv.shape[0], kernel_size=frame_conv.shape[2]),
    )


def _placement(names: list[str]) -> Literal["pre_mlp", "pre_attn", "both"]:
    found = [place for place in PLACES if any(f".{place}_adapter." in name for name in names)]
    return "both" if len(found) == 2 else found[0]


def _m2clip_heads(own: Mapping[str, Tensor]) -> Heads:
    """The file numbers classes and words and does not name them."""
    fc, decoder = own.get("class_head.fc.weight"), own.get("word_head.decoder.weight")
    return Heads(
        classes=() if fc is None else unnamed(len(fc)),
        class_head=fc is not None,
        vocabulary=() if decoder is None else unnamed(len(decoder)),
    )


FOREIGN = {
    "m2clip": ForeignKind("M2-CLIP", is_m2clip, _load_m2clip),
    "vificlip": ForeignKind("ViFi-CLIP", is_vificlip, _load_vificlip),
    "froster": ForeignKind("FROSTER", is_froster, _load_froster),
    "openvclip": ForeignKind("Open-VCLIP", is_openvclip, _load_openvclip),
}
