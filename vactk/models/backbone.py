"""Load image CLIPs by name, from a file or folder, or the toy one. The only file that imports open_clip."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import vactk.torchvision_ops  # noqa: F401 - open_clip imports torchvision
from vactk.errors import VactkError, first_line, nearest, unknown
from vactk.models import toy
from vactk.models.vision_tower import vision_tower
from vactk.text.descriptions import shorten
from vactk.weights.hf_clip import read_architecture, rename_huggingface
from vactk.weights.hub_folder import is_weights_folder, open_weights_folder
from vactk.weights.network import fast_failure
from vactk.weights.safetensors_file import load_exactly
from vactk.weights.torch_file import read_state_dict

# isort: split
import open_clip

TOY = "toy"
OPENAI_ENTRIES = {
    "input_resolution",
    "context_length",
    "vocab_size",
}  # integers that only OpenAI's archives hold


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which image CLIP to start from."""

    name: str = "ViT-B-16"  # an open_clip name, `toy`, a weights file in OpenAI's layout, or a folder
    pretrained: str = ""  # a tag of open_clip, a weights file, `none`; empty: the name's usual weights
    quick_gelu: bool | None = None  # the activation; null: as the weights were trained


@dataclass(frozen=True)
class Backbone:
    """A CLIP with its tokenizer and preprocessing, and the settings that rebuild it."""

    clip: nn.Module
    tokenize: Any  # open_clip's tokenizer: texts -> (B, L) int64, long texts cut at the context length
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    config: BackboneConfig  # every choice resolved: what `load_backbone` needs to make an equal one
    architecture: Mapping[str, Any] = field(default_factory=dict)  # open_clip's model configuration

    def shorten(self, texts: Iterable[str], num_tokens: int = 0) -> list[str]:
        """Texts cut at the end of a sentence, or of a word, to what the text tower reads, or to fewer tokens."""
        context = self.tokenize.context_length
        limit = min(num_tokens or context, context) - 2  # start and end
        # a Hugging Face tokenizer is wrapped
        encode = getattr(self.tokenize, "encode", None) or self.tokenize.tokenizer.tokenize
        return [shorten(text, lambda words: len(encode(words)), limit) for text in texts]


def load_backbone(config: BackboneConfig, *, weights: bool = True) -> Backbone:
    """The CLIP that `config` names, in float32 on the CPU; without `weights`, only its architecture.

    Raises VactkError for unknown names and tags (with the nearest match), towers that are not ViTs, files
    that do not fit, and weights that cannot be downloaded.
    """
    if config.name == TOY:
        return _load_toy(config, weights)
    if is_weights_folder(Path(config.name)):
        return _load_folder(config, weights)
    if Path(config.name).suffix or Path(config.name).exists():
        return _load_file(config, weights)
    return _load_named(config, weights)


def _load_toy(config: BackboneConfig, weights: bool) -> Backbone:
    if config.pretrained not in ("", TOY):
        raise VactkError(f"backbone 'toy' brings its own weights, got --pretrained '{config.pretrained}'")
    cfg = toy.toy_config()
    clip = _build(cfg["model_cfg"], quick_gelu=False)
    if weights:
        load_exactly(clip, toy.toy_state_dict(), may_lack=set(), source="the toy CLIP")
    preprocess = cfg["preprocess_cfg"]
    return Backbone(
        clip=clip,
        tokenize=open_clip.SimpleTokenizer(context_length=clip.context_length),
        image_size=_image_size(clip, TOY),
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        config=BackboneConfig(name=TOY, pretrained=TOY, quick_gelu=False),
        architecture=cfg["model_cfg"],
    )


def _load_named(config: BackboneConfig, weights: bool) -> Backbone:
    name = _canonical_name(config.name)
    cfg = copy.deepcopy(open_clip.get_model_config(name))
    _refuse_other_towers(cfg, name)
    pretrained = config.pretrained or _usual_tag(name)
    tag_cfg = {} if Path(pretrained).exists() else open_clip.get_pretrained_cfg(name, pretrained)
    tensors = None
    if weights and not tag_cfg and pretrained != "none":
        tensors = _read_weights(name, pretrained)
    quick_gelu = config.quick_gelu
    if quick_gelu is None:
        quick_gelu = _trained_with_quick_gelu(cfg, tag_cfg, tensors)
    downloaded = _download(name, pretrained, tag_cfg) if weights and tag_cfg else None
    clip = _build(cfg, quick_gelu=quick_gelu)
    if tensors is not None:
        _load_renamed(clip, tensors, f"'{pretrained}'")
    elif downloaded is not None:
        with _quiet():
            open_clip.load_checkpoint(clip, downloaded, strict=True, weights_only=True)
    return Backbone(
        clip=clip,
        tokenize=open_clip.get_tokenizer(name),
        image_size=_image_size(clip, name),
        mean=tuple(tag_cfg.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(tag_cfg.get("std") or open_clip.OPENAI_DATASET_STD),
        config=BackboneConfig(name=name, pretrained=pretrained, quick_gelu=quick_gelu),
        architecture={**cfg, "quick_gelu": quick_gelu},
    )


def _load_folder(config: BackboneConfig, weights: bool) -> Backbone:
    """A CLIP of open_clip's or Hugging Face's, with its configuration beside its weights."""
    path = Path(config.name)
    if config.pretrained:
        raise VactkError(f"'{path}' holds weights already, got --pretrained '{config.pretrained}' as well")
    folder = open_weights_folder(path)
    try:
        cfg, quick_gelu = FOLDERS[folder.kind](folder.config)
        _refuse_other_towers(cfg, config.name)
        quick_gelu = quick_gelu if config.quick_gelu is None else config.quick_gelu
        clip = _build(cfg, quick_gelu=quick_gelu)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise VactkError(
            f"the configuration in '{path}' is not one of a CLIP that vactk knows: {error}"
        ) from error
    except VactkError as error:
        raise VactkError(f"'{path}' cannot be read: {error}") from error
    if weights:
        tensors = folder.read()
        if folder.kind != "open_clip":
            renamed = rename_huggingface(tensors)
            tensors = {n.removeprefix("clip."): t for n, t in renamed.items() if n.startswith("clip.")}
        _load_renamed(clip, tensors, f"'{path}'")
    shown = folder.preprocessing
    return Backbone(
        clip=clip,
        tokenize=open_clip.get_tokenizer(f"local-dir:{path}")
        if folder.kind == "open_clip"
        else open_clip.SimpleTokenizer(context_length=clip.context_length),
        image_size=_image_size(clip, str(path)),
        mean=tuple(shown.get("mean") or shown.get("image_mean") or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(shown.get("std") or shown.get("image_std") or open_clip.OPENAI_DATASET_STD),
        config=BackboneConfig(name=str(path), quick_gelu=quick_gelu),
        architecture={**cfg, "quick_gelu": quick_gelu},
    )


def load_with_open_clip(path: Path) -> nn.Module:
    """The CLIP of a folder by open_clip's own loader, in evaluation mode: what its users will get."""
    with _quiet():
        return open_clip.create_model(f"local-dir:{path}").eval()


def _open_clip_architecture(config: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    cfg = dict(config["model_cfg"])
    return cfg, bool(cfg.get("quick_gelu", False))


FOLDERS = {"open_clip": _open_clip_architecture, "clip": read_architecture, "xclip": read_architecture}


def _load_file(config: BackboneConfig, weights: bool) -> Backbone:
    """A CLIP whose architecture is read off its weights: OpenAI's layout, heads of 64 channels."""
    path = Path(config.name)
    if config.pretrained:
        raise VactkError(
            f"'{path}' is a weights file already, got --pretrained '{config.pretrained}' as well"
        )
    tensors = read_state_dict(path)
    try:
        cfg = _config_of(tensors)
    except (KeyError, ZeroDivisionError, IndexError) as error:
        raise VactkError(
            f"'{path}' is not in the layout of OpenAI's CLIP ({error} is missing); "
            "name its architecture: --backbone NAME --pretrained FILE"
        ) from error
    from_openai = tensors.keys() >= OPENAI_ENTRIES
    quick_gelu = from_openai if config.quick_gelu is None else config.quick_gelu
    clip = _build(cfg, quick_gelu=quick_gelu)
    if weights:
        _load_renamed(clip, tensors, f"'{path}'")
    return Backbone(
        clip=clip,
        tokenize=open_clip.SimpleTokenizer(context_length=clip.context_length),
        image_size=_image_size(clip, str(path)),
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        config=BackboneConfig(name=str(path), quick_gelu=quick_gelu),
        architecture={**cfg, "quick_gelu": quick_gelu},
    )


def backbone_names() -> list[str]:
    """Return the names that `BackboneConfig.name` may have, besides files and folders."""
    return [*open_clip.list_models(), TOY]


def _canonical_name(name: str) -> str:
    names = backbone_names()
    if name in names:
        return name
    same = next((known for known in names if known.lower() == name.lower().replace("/", "-")), None)
    if same is None:
        raise VactkError(unknown(name, names, "backbone"))
    return same


def _usual_tag(name: str) -> str:
    """OpenAI's weights where they exist, else the first that open_clip lists; `none` must be asked for."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tags:
        raise VactkError(f"backbone '{name}' has no usual weights; give --pretrained FILE, or none")
    return "openai" if "openai" in tags else tags[0]


def _trained_with_quick_gelu(
    cfg: dict[str, Any], tag_cfg: dict[str, Any], tensors: dict[str, Tensor] | None
) -> bool:
    """The activation that the weights were trained with; the wrong one costs accuracy and raises no error."""
    if tag_cfg:
        return bool(tag_cfg.get("quick_gelu", False))
    if tensors is not None and tensors.keys() >= OPENAI_ENTRIES:
        return True
    return bool(cfg.get("quick_gelu", False))


def _read_weights(name: str, pretrained: str) -> dict[str, Tensor]:
    path = Path(pretrained)
    if not path.exists():
        tags = open_clip.list_pretrained_tags_by_model(name)
        match = nearest(pretrained, tags)
        hint = f"did you mean '{match}'?" if match else f"choose from {', '.join(tags[:12]) or 'none'}"
        raise VactkError(f"unknown pretrained tag or file '{pretrained}' for backbone '{name}'; {hint}")
    return read_state_dict(path)


def _download(name: str, tag: str, tag_cfg: dict[str, Any]) -> str:
    """Return the file of a tag's weights, downloaded unless it is here. Raises VactkError where it cannot be."""
    with fast_failure("" if tag_cfg.get("hf_hub") else tag_cfg.get("url", "")) as reason:
        try:
            return open_clip.download_pretrained(tag_cfg)
        except Exception as error:  # whatever the network layers raise: requests, urllib, huggingface_hub
            raise VactkError(
                f"the weights '{tag}' of backbone '{name}' are not on this machine and cannot be downloaded "
                f"({reason or first_line(error)}); give a local file with --pretrained FILE; --backbone toy is "
                "here, but for drawn shapes only"
            ) from error


def named_config(tensors: dict[str, Tensor], *, quick_gelu: bool) -> BackboneConfig | None:
    """OpenAI's release whose architecture `tensors` (its names, perhaps after `model.`) have, or None."""
    try:
        wanted = _config_of(tensors)
    except (KeyError, ZeroDivisionError, IndexError):
        return None
    for name, tag in open_clip.list_pretrained():
        cfg = open_clip.get_model_config(name)
        if tag != "openai" or not isinstance(cfg["vision_cfg"]["layers"], int):
            continue
        cfg["vision_cfg"].setdefault("head_width", 64)
        if all(cfg[key] == wanted[key] for key in wanted):
            return BackboneConfig(name=name, pretrained=tag, quick_gelu=quick_gelu)
    return None


def _load_renamed(clip: Any, tensors: dict[str, Tensor], source: str) -> None:
    """Load tensors under OpenAI's or open_clip's names."""
    names = plain_names(tensors, clip.state_dict())
    weights = {ours: tensors[theirs] for ours, theirs in names.items()}
    weights = {name: t.float() if t.is_floating_point() else t for name, t in weights.items()}
    load_exactly(clip, weights, may_lack=set(), source=source)


def plain_names(names: Iterable[str], own: Iterable[str]) -> dict[str, str]:
    """Map the names that a model has for a plain CLIP's tensors, of which `own` are all, to a file's `names`."""
    kept = {name: name for name in names if name not in OPENAI_ENTRIES}
    prefixed = {name.removeprefix("model."): name for name in kept}
    if not any(name.startswith("visual.") for name in kept) and "visual.proj" in prefixed:
        kept = prefixed
    text_apart = any(name.startswith("text.") for name in own)
    return open_clip.model.convert_to_custom_text_state_dict(kept) if text_apart else kept


def _config_of(tensors: dict[str, Tensor]) -> dict[str, Any]:
    tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    width, _, _, patch = tensors["visual.conv1.weight"].shape
    grid = round((tensors["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    text_width = tensors["ln_final.weight"].shape[0]
    return {
        "embed_dim": tensors["text_projection"].shape[1],
        "vision_cfg": {
            "image_size": grid * patch,
            "patch_size": patch,
            "width": width,
            "layers": _count_blocks(tensors, "visual.transformer.resblocks."),
            "head_width": 64,
        },
        "text_cfg": {
            "context_length": tensors["positional_embedding"].shape[0],
            "vocab_size": tensors["token_embedding.weight"].shape[0],
            "width": text_width,
            "heads": text_width // 64,
            "layers": _count_blocks(tensors, "transformer.resblocks."),
        },
    }


def _count_blocks(tensors: dict[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})


def _refuse_other_towers(cfg: dict[str, Any], name: str) -> None:
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    reason = None
    if "timm_model_name" in vision:
        reason = "its vision tower comes from timm"
    elif not isinstance(vision["layers"], int):
        reason = "its vision tower is a ResNet"
    elif "hf_model_name" in text:
        reason = "its text tower comes from Hugging Face transformers"
    elif "multimodal_cfg" in cfg:
        reason = "it is a captioning model"
    if reason:
        raise VactkError(
            f"backbone '{name}' cannot carry temporal modules: {reason}; "
            "choose one of open_clip's own ViTs, such as ViT-B-16"
        )


def _build(cfg: dict[str, Any], *, quick_gelu: bool) -> Any:
    cfg = copy.deepcopy(cfg)
    cls = open_clip.CustomTextCLIP if cfg.pop("custom_text", False) else open_clip.CLIP
    clip = cls(**{**cfg, "quick_gelu": quick_gelu})
    vision_tower(clip).keep_all_patches()
    return clip


def _image_size(clip: nn.Module, name: str) -> int:
    height, width = vision_tower(clip).image_size
    if height != width:
        raise VactkError(f"backbone '{name}' takes {height}x{width} pixels; only square images are supported")
    return height


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """open_clip reports its progress on the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
