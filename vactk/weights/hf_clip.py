"""Hugging Face's names and configurations of CLIP and X-CLIP, and ours.

CLIP's `CLIPModel` maps exactly, both ways. Of X-CLIP's `XCLIPModel` the towers and the messages between frames
do; its multi-frame integration transformer and its video-specific prompts have no counterpart here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vactk.errors import VactkError

_PLAIN = {
    "logit_scale": "clip.logit_scale",
    "text_model.embeddings.token_embedding.weight": "clip.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "clip.positional_embedding",
    "text_model.final_layer_norm.weight": "clip.ln_final.weight",
    "text_model.final_layer_norm.bias": "clip.ln_final.bias",
    "vision_model.embeddings.class_embedding": "clip.visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "clip.visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "clip.visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "clip.visual.ln_pre.weight",  # so spelled there
    "vision_model.pre_layrnorm.bias": "clip.visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "clip.visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "clip.visual.ln_post.bias",
}
_ALSO = {  # of X-CLIP
    "vision_model.pre_layernorm.weight": "clip.visual.ln_pre.weight",
    "vision_model.pre_layernorm.bias": "clip.visual.ln_pre.bias",
}
_TURNED = {  # nn.Linear there, a matrix here
    "text_projection.weight": "clip.text_projection",
    "visual_projection.weight": "clip.visual.proj",
}
_TOWERS = {"text_model": "clip.transformer.resblocks", "vision_model": "clip.visual.transformer.resblocks"}
_PARTS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_MESSAGES = ("message_fc", "message_ln", "message_attn.out_proj")
_LAYER = re.compile(r"(text_model|vision_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_PROJECTION = re.compile(r"(self|message)_attn\.([qkv])_proj")

# modules of X-CLIP that vactk lacks; buffers without information
XCLIP_PARTS = ("mit.", "prompts_generator.", "prompts_visual_layernorm.", "prompts_visual_projection")
BUFFERS = (".position_ids",)

VISION_DEFAULTS = {  # what configurations leave out, by transformers' own defaults
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
TEXT_DEFAULTS = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}  # fmt: skip
OLD_EOS = 2  # in configurations from before it was put right; there the highest token is meant
ACTIVATIONS = {"quick_gelu": True, "gelu": False}


def rename_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a `CLIPModel` or `XCLIPModel` under the names of vactk's checkpoints."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in _PLAIN or name in _ALSO:
            renamed[_PLAIN.get(name) or _ALSO[name]] = tensor
        elif name in _TURNED:
            renamed[_TURNED[name]] = tensor.T
        elif match := _LAYER.fullmatch(name):
            ours = _layer_name(*match.groups())
            if ours is not None:
                renamed[ours] = tensor
    return _joined(renamed)


def _layer_name(tower: str, layer: str, part: str, leaf: str) -> str | None:
    if part in _PARTS:
        return f"{_TOWERS[tower]}.{layer}.{_PARTS[part]}.{leaf}"
    if part in _MESSAGES and tower == "vision_model":
        return f"temporal.{layer}.{part}.{leaf}"
    if match := _PROJECTION.fullmatch(part):
        kind, which = match.groups()
        owner = f"{_TOWERS[tower]}.{layer}.attn" if kind == "self" else f"temporal.{layer}.message_attn"
        return f"{owner}.in_proj_{leaf}.{which}"
    return None


def _joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values, three tensors there, as the one that they are here, where all three are there."""
    joined = {}
    for name, tensor in tensors.items():
        stem, _, which = name.rpartition(".")
        parts = [f"{stem}.{part}" for part in "qkv"]
        if which not in "qkv" or not all(part in tensors for part in parts):
            joined[name] = tensor
        elif which == "q":
            joined[stem] = torch.cat([tensors[part] for part in parts])
    return joined


def name_for_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A plain CLIP's tensors under the names of vactk's checkpoints, as those of a `CLIPModel`.

    Raises ValueError for a tensor that it lacks.
    """
    plain = {ours: theirs for theirs, ours in _PLAIN.items()}
    turned = {ours: theirs for theirs, ours in _TURNED.items()}
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in plain:
            named[plain[name]] = tensor
        elif name in turned:
            named[turned[name]] = tensor.T.contiguous()
        else:
            named.update(_layer_for_huggingface(name, tensor))
    return named


def _layer_for_huggingface(name: str, tensor: Tensor) -> dict[str, Tensor]:
    for theirs, ours in _TOWERS.items():
        layer, _, rest = name.removeprefix(f"{ours}.").partition(".")
        part, _, leaf = rest.rpartition(".")
        if not name.startswith(ours) or not layer.isdigit():
            continue
        start = f"{theirs}.encoder.layers.{layer}"
        for their_part, our_part in _PARTS.items():
            if part == our_part:
                return {f"{start}.{their_part}.{leaf}": tensor}
        if part == "attn" and leaf.startswith("in_proj_"):
            kind = leaf.removeprefix("in_proj_")
            chunks = zip("qkv", tensor.chunk(3), strict=True)
            return {f"{start}.self_attn.{which}_proj.{kind}": chunk.clone() for which, chunk in chunks}
    raise ValueError(f"a CLIPModel has no tensor for '{name}'")


def left_out_knowingly(name: str) -> bool:
    """Whether a tensor is one that vactk leaves out, and says so: X-CLIP's own parts, and buffers."""
    return name.startswith(XCLIP_PARTS) or name.endswith(BUFFERS)


def read_architecture(config: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """open_clip's model configuration for a `config.json` of CLIP or X-CLIP, and whether it has quick_gelu.

    Raises VactkError for what open_clip's towers are not.
    """
    vision = _settings(config, "vision", VISION_DEFAULTS)
    text = _settings(config, "text", TEXT_DEFAULTS)
    for name, tower in (("vision", vision), ("text", text)):
        if tower["hidden_size"] % tower["num_attention_heads"]:
            raise VactkError(
                f"its {name} tower has heads that do not divide its width {tower['hidden_size']}"
            )
    if vision["hidden_act"] != text["hidden_act"] or vision["hidden_act"] not in ACTIVATIONS:
        raise VactkError(
            f"its activations are {vision['hidden_act']} and {text['hidden_act']}; both must be quick_gelu or gelu"
        )
    if vision["num_channels"] != 3:
        raise VactkError(f"its images have {vision['num_channels']} channels instead of 3")
    if text["eos_token_id"] not in (OLD_EOS, text["vocab_size"] - 1):
        raise VactkError(f"its texts end with token {text['eos_token_id']}, which is not the highest one")
    model = {
        "embed_dim": config.get("projection_dim", 512),
        "vision_cfg": {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            **_tower(vision),
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "heads": text["num_attention_heads"],
            **_tower(text),
        },
    }
    return model, ACTIVATIONS[vision["hidden_act"]]


def _settings(config: Mapping[str, Any], tower: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {**defaults, **config.get(f"{tower}_config", {}), **(config.get(f"{tower}_config_dict") or {})}


def _tower(settings: Mapping[str, Any]) -> dict[str, Any]:
    tower = {
        "width": settings["hidden_size"],
        "layers": settings["num_hidden_layers"],
        "mlp_ratio": settings["intermediate_size"] / settings["hidden_size"],
    }
    if settings["layer_norm_eps"] != 1e-5:
        tower["norm_kwargs"] = {"eps": settings["layer_norm_eps"]}
    return tower


KNOWN_VISION = {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "patch_dropout"}
KNOWN_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


def write_architecture(model: Mapping[str, Any], quick_gelu: bool) -> dict[str, Any] | None:
    """The `config.json` of a `CLIPModel` for open_clip's model configuration; None where there is none."""
    vision, text = model["vision_cfg"], model["text_cfg"]
    whole = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"}
    if not (vision.keys() <= KNOWN_VISION and text.keys() <= KNOWN_TEXT and model.keys() <= whole):
        return None
    act = "quick_gelu" if quick_gelu else "gelu"
    shared = {"hidden_act": act, "layer_norm_eps": 1e-5, "projection_dim": model["embed_dim"]}
    vision_width, text_width = vision.get("width", 768), text.get("width", 512)
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": model["embed_dim"],
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": vision_width,
            "intermediate_size": round(vision_width * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": vision.get("layers", 12),
            "num_attention_heads": vision_width // vision.get("head_width", 64),
            "num_channels": 3,
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 16),
            **shared,
        },
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.get("vocab_size", 49408),
            "hidden_size": text_width,
            "intermediate_size": round(text_width * text.get("mlp_ratio", 4.0)),
            "num_hidden_layers": text.get("layers", 12),
            "num_attention_heads": text.get("heads", 8),
            "max_position_embeddings": text.get("context_length", 77),
            "bos_token_id": text.get("vocab_size", 49408) - 2,
            "eos_token_id": text.get("vocab_size", 49408) - 1,
            "pad_token_id": text.get("vocab_size", 49408) - 1,
            **shared,
        },
    }
