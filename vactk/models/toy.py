"""The toy CLIP of the package, trained on still images of the world of `shapes`.

Its file holds the embeddings of the tokens that occurred in training; all others keep their random initial values,
redrawn from the seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vactk.weights.safetensors_file import read_tensors, save_tensors

EMBEDDING = "token_embedding.weight"
ROWS, VALUES = "token_embedding.rows", "token_embedding.values"
EMBEDDING_STD = 0.02  # open_clip's initial value


def toy_config() -> dict[str, Any]:
    """open_clip's `model_cfg` and `preprocess_cfg` of the toy CLIP."""
    return json.loads(_file("toy.json").read_text(encoding="utf-8"))


def toy_state_dict(path: Path | None = None) -> dict[str, Tensor]:
    """Load all weights of the toy CLIP in float32, from `path` or the file in the package."""
    tensors = read_tensors(_file("toy.safetensors") if path is None else path)
    table = initial_embedding()
    table[tensors.pop(ROWS).long()] = tensors.pop(VALUES).float()
    return {EMBEDDING: table, **{name: tensor.float() for name, tensor in tensors.items()}}


def save_toy(path: Path, state: dict[str, Tensor]) -> None:
    """Write a file for `toy_state_dict`: half precision, and only the token embeddings that were trained."""
    changed = (state[EMBEDDING] != initial_embedding()).any(dim=1).nonzero()[:, 0]
    tensors = {name: tensor.half() for name, tensor in state.items() if name != EMBEDDING}
    tensors[ROWS], tensors[VALUES] = changed.int(), state[EMBEDDING][changed].half()
    save_tensors(path, tensors, {"what": "the toy CLIP of vactk"})


def knows_words(text: str, encode: Callable[[str], list[int]]) -> bool:
    """Return whether most words of a text occurred in training; `encode` gives the tokens of a word."""
    known = [trained_tokens().issuperset(encode(word)) for word in text.lower().split()]
    return 2 * sum(known) > len(known)


@cache
def trained_tokens() -> frozenset[int]:
    """Return the tokens that occurred in training: those whose embeddings the file holds."""
    return frozenset(read_tensors(_file("toy.safetensors"))[ROWS].tolist())


def initial_embedding() -> Tensor:
    """(vocabulary, width) float32: where training starts. NumPy guarantees this generator's numbers for good."""
    text = toy_config()["model_cfg"]["text_cfg"]
    numbers = np.random.RandomState(0).standard_normal((text["vocab_size"], text["width"]))
    return torch.from_numpy(numbers.astype(np.float32) * np.float32(EMBEDDING_STD))


def _file(name: str) -> Path:
    return Path(str(resources.files("vactk.models").joinpath(name)))
