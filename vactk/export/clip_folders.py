"""Folders of weights for open_clip, transformers, or vactk itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from vactk import config as settings
from vactk.checkpoints.checkpoint import save_model
from vactk.checkpoints.load import open_model
from vactk.export.fold_to_clip import PlainCLIP, frames_apart, has_plain_form, plain_clip
from vactk.export.graph_specs import Samples, build_graph_specs, cases_for
from vactk.export.metadata import InferenceSpec, general_metadata, video_metadata
from vactk.export.model_card import model_card
from vactk.export.verify import (
    Agreement,
    Case,
    ExportedFile,
    Run,
    agreement,
    as_outputs,
    max_difference,
    refuse_wrong,
)
from vactk.models.backbone import load_with_open_clip
from vactk.models.video_clip import VideoCLIP, pool_frames
from vactk.models.video_model import TOWERS, VideoModel
from vactk.weights.hf_clip import name_for_huggingface, write_architecture
from vactk.weights.hub_folder import HUGGINGFACE_CONFIG, OPEN_CLIP_CONFIG, PREPROCESSING

OPEN_CLIP_WEIGHTS, HUGGINGFACE_WEIGHTS = "open_clip_model.safetensors", "model.safetensors"
Result = tuple[tuple[ExportedFile, ...], tuple[str, ...]]  # the files, and notes
Measure = Callable[[VideoModel], Sequence[Mapping[str, Any]]]  # a model's accuracies, for the card


def export_open_clip(
    model: VideoModel,
    folder: Path,
    inference: InferenceSpec,
    samples: Samples,
    tolerance: float,
    measure: Measure,
) -> Result:
    """A folder for `open_clip.create_model("local-dir:FOLDER")`, checked by open_clip itself.

    It has no card: `measure` is not called.

    Raises VactkError as `plain_clip` does, and when the folder does not give what the model gives.
    """
    plain = plain_clip(model)
    backbone = model.backbone
    _write_json(
        folder / OPEN_CLIP_CONFIG,
        {
            "model_cfg": dict(backbone.architecture),
            "preprocess_cfg": {
                "size": [backbone.image_size, backbone.image_size],
                "mode": "RGB",
                "mean": list(backbone.mean),
                "std": list(backbone.std),
                "interpolation": "bicubic",
                "resize_mode": "shortest",
            },
        },
    )
    _save_weights(folder / OPEN_CLIP_WEIGHTS, plain.state)
    loaded = cast(Any, load_with_open_clip(folder))
    apart = frames_apart(model)
    video, text = (
        cases_for(graph, model, samples)
        for graph in build_graph_specs(model, inference, wanted=("video", "text"))
    )
    images = [Case(case.kind, case.input.flatten(0, 1)) for case in video]
    whole = [case for case in text if case.input.shape[1] == apart.text.context_length]
    sides = [
        (lambda x: (apart.encode_video(x[:, None]),), _runner(loaded.encode_image), images),
        (lambda x: (apart.encode_text(x),), _runner(loaded.encode_text), whole),
    ]
    written = _checked(OPEN_CLIP_WEIGHTS, "open_clip", sides, tolerance, (OPEN_CLIP_CONFIG,))
    near = agreement(
        lambda views: _embed(model, model.video_clip, views),
        lambda views: loaded.encode_image(views.flatten(0, 1)).unflatten(0, views.shape[:2]).mean(dim=1),
        video,
    )
    notes = () if near.is_exact else (f"the mean of open_clip's embeddings of frames has {near}",)
    return (replace(written, frames_apart=near),), (*plain.notes, *notes)


def export_huggingface(
    model: VideoModel,
    folder: Path,
    inference: InferenceSpec,
    samples: Samples,
    tolerance: float,
    measure: Measure,
) -> Result:
    """A folder with config.json, model.safetensors and a model card, for the hub's own tool to push.

    A plain CLIP is written as transformers' `CLIPModel`, with its tokenizer; vactk's own settings are in
    its configuration. Any other model is a whole vactk checkpoint. `open_model` reads both, and the folder
    is checked with it. A plain CLIP is also compared as transformers reads it, frames apart; where that differs,
    `measure` gives the card its accuracies. Raises VactkError when the folder does not give what the model gives.
    """
    config = _transformers_config(model)
    if config is None:
        notes: tuple[str, ...] = ("a vactk checkpoint: transformers has no such model",)
        _write_own(model, folder, inference)
        more: tuple[str, ...] = (HUGGINGFACE_CONFIG,)
    else:
        plain = plain_clip(model)
        notes = (*plain.notes, "transformers' CLIPModel reads it")
        more = _write_transformers(model, plain, config, folder, inference)
    loaded = open_model(folder)
    graphs = build_graph_specs(model, inference, wanted=("video", "text"))
    again = build_graph_specs(loaded, inference, wanted=("video", "text"))
    sides = [
        (graph.reference, _runner(other.reference), cases_for(graph, model, samples))
        for graph, other in zip(graphs, again, strict=True)
    ]
    written = _checked(HUGGINGFACE_WEIGHTS, "huggingface", sides, tolerance, (*more, "README.md"))
    apart: Sequence[Mapping[str, Any]] = ()
    if config is not None:
        near = _agreement_apart(model, loaded, sides[0][2])
        written = replace(written, frames_apart=near)
        if not near.is_exact:
            notes = (*notes, f"the mean of transformers' embeddings of frames has {near}")
            apart = measure(replace(loaded, video_clip=frames_apart(loaded)))
    card = model_card(model, inference, written, notes, folder, apart)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return (written,), notes


def _agreement_apart(model: VideoModel, loaded: VideoModel, cases: Sequence[Case]) -> Agreement:
    apart = frames_apart(loaded)
    return agreement(
        lambda views: _embed(model, model.video_clip, views),
        lambda views: _embed(model, apart, views),
        cases,
    )


def _embed(model: VideoModel, clip: VideoCLIP, views: Tensor) -> Tensor:
    return pool_frames(clip.video_features(views).frames, model.config.similarity)


def _transformers_config(model: VideoModel) -> dict[str, Any] | None:
    """The configuration of a CLIPModel with a model's weights, or None where there is none."""
    has_heads = model.class_head is not None or model.word_head is not None
    if has_heads or model.video_clip.frame_adapter is not None or not has_plain_form(model):
        return None
    if not hasattr(model.backbone.tokenize, "bpe_ranks") or not model.video_clip.text.is_causal:
        return None
    return write_architecture(model.backbone.architecture, bool(model.config.backbone.quick_gelu))


def _write_own(model: VideoModel, folder: Path, inference: InferenceSpec) -> None:
    info = {
        **{k: v for k, v in model.info.items() if k not in ("initial", "import")},
        "source": dict(inference.source),
    }
    save_model(folder / HUGGINGFACE_WEIGHTS, model, towers=TOWERS, info=info)
    metadata = general_metadata(model, inference) | video_metadata(model, inference, None)
    config = {"model_type": "vactk", "architectures": ["VideoCLIP"], "vactk": metadata}
    _write_json(folder / HUGGINGFACE_CONFIG, config)


def _write_transformers(
    model: VideoModel, plain: PlainCLIP, config: dict[str, Any], folder: Path, inference: InferenceSpec
) -> tuple[str, ...]:
    text_apart = any(name.startswith("text.") for name in plain.state)
    names = {
        name.removeprefix("text.") if text_apart else name: tensor for name, tensor in plain.state.items()
    }
    tensors = {f"clip.{n}": t for n, t in names.items() if n != "attn_mask"}
    _save_weights(folder / HUGGINGFACE_WEIGHTS, name_for_huggingface(tensors))
    metadata = general_metadata(model, inference) | video_metadata(model, inference, None)
    described = settings.to_dict(model.config)
    ours = {**metadata, "temporal": described["temporal"], "similarity": described["similarity"]}
    if "recipe" in model.info:
        ours["recipe"] = model.info["recipe"]
    scale = float(cast(Tensor, model.video_clip.backbone.logit_scale).detach())
    _write_json(folder / HUGGINGFACE_CONFIG, {**config, "logit_scale_init_value": scale, "vactk": ours})
    size = model.backbone.image_size
    _write_json(
        folder / PREPROCESSING,
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": size},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(model.backbone.mean),
            "image_std": list(model.backbone.std),
            "do_convert_rgb": True,
        },
    )
    return (HUGGINGFACE_CONFIG, PREPROCESSING, *_write_tokenizer(model, folder))


def _write_tokenizer(model: VideoModel, folder: Path) -> tuple[str, ...]:
    """CLIP's byte-pair encoding as transformers' CLIPTokenizer reads it."""
    tokenizer = model.backbone.tokenize
    named = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {named.get(token, token): number for token, number in tokenizer.encoder.items()}
    _write_json(folder / "vocab.json", vocabulary)
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": model.video_clip.text.context_length,
            "do_lower_case": True,
            **special,
        },
    )
    return ("vocab.json", "merges.txt", "tokenizer_config.json")


def _checked(
    name: str,
    kind: str,
    sides: Sequence[tuple[Run, Run, Sequence[Case]]],
    tolerance: float,
    more: tuple[str, ...],
) -> ExportedFile:
    what = f"{name} ({kind})"
    found = [max_difference(expected, run, cases, what) for expected, run, cases in sides]
    for difference in found:
        refuse_wrong(difference, tolerance, what)
    kinds = {kind for difference in found for kind in difference.absolute}
    return ExportedFile(
        path=name,
        part="weights",
        format=kind,
        precision="float32",
        max_abs_diff=max(difference.largest for difference in found),
        differences={k: max(difference.absolute.get(k, 0.0) for difference in found) for k in sorted(kinds)},
        tolerance=tolerance,
        more=more,
    )


def _runner(function: Any) -> Run:
    def run(value: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return as_outputs(function(value))

    return run


def _save_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})
    path.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
