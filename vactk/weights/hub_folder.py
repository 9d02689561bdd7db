"""Folders of weights with their configuration: Hugging Face's and open_clip's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vactk.errors import VactkError
from vactk.weights.torch_file import read_state_dict

OPEN_CLIP_CONFIG, HUGGINGFACE_CONFIG = "open_clip_config.json", "config.json"
# in the order of preference; an index names the files that share a model's tensors
WEIGHTS = {
    OPEN_CLIP_CONFIG: ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    HUGGINGFACE_CONFIG: (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ),
}
PREPROCESSING = "preprocessor_config.json"


@dataclass(frozen=True)
class WeightsFolder:
    """A folder of weights. Its tensors have the names that their files give them."""

    path: Path
    kind: str  # "open_clip", or the model type by Hugging Face's configuration
    config: Mapping[str, Any]
    preprocessing: Mapping[str, Any]

    @property
    def file(self) -> Path:
        """The file of weights, or the index of several. Raises VactkError where there is none."""
        name = OPEN_CLIP_CONFIG if self.kind == "open_clip" else HUGGINGFACE_CONFIG
        found = next((self.path / file for file in WEIGHTS[name] if (self.path / file).is_file()), None)
        if found is None:
            raise VactkError(f"there are no weights in '{self.path}', such as {WEIGHTS[name][0]}")
        return found

    def read(self) -> dict[str, Tensor]:
        """Read all tensors. Raises VactkError where their files are absent or damaged."""
        found = self.file
        if found.suffix != ".json":
            return read_state_dict(found)
        shards = sorted(set(_read_json(found).get("weight_map", {}).values()))
        tensors: dict[str, Tensor] = {}
        for shard in shards:
            if not isinstance(shard, str) or Path(shard).name != shard:
                raise VactkError(f"'{found}' names a file outside of its folder: {shard!r}")
            tensors.update(read_state_dict(self.path / shard))
        return tensors


def is_weights_folder(path: Path) -> bool:
    """Whether `path` is a folder with a configuration of open_clip's or Hugging Face's."""
    return path.is_dir() and any((path / name).is_file() for name in WEIGHTS)


def open_weights_folder(path: Path) -> WeightsFolder:
    """The folder at `path`. Raises VactkError when its configuration is absent or damaged."""
    if (path / OPEN_CLIP_CONFIG).is_file():
        config = _read_json(path / OPEN_CLIP_CONFIG)
        return WeightsFolder(path, "open_clip", config, _mapping(config.get("preprocess_cfg")))
    if not (path / HUGGINGFACE_CONFIG).is_file():
        raise VactkError(f"'{path}' holds neither {OPEN_CLIP_CONFIG} nor {HUGGINGFACE_CONFIG}")
    config = _read_json(path / HUGGINGFACE_CONFIG)
    preprocessing = path / PREPROCESSING
    return WeightsFolder(
        path,
        str(config.get("model_type")),
        config,
        _read_json(preprocessing) if preprocessing.is_file() else {},
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VactkError(f"cannot read '{path}': {error}") from error
    if not isinstance(value, dict):
        raise VactkError(f"'{path}' is not a configuration: it holds no mapping")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
