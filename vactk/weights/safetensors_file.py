"""Safetensors files whose metadata say what they hold: saved atomically, read with one-line errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vactk.config import parse_json
from vactk.errors import VactkError, first_line
from vactk.files.atomic import atomic_path

METADATA_KEY = "vactk"  # safetensors metadata map text to text: ours is one entry of JSON


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Tensors and JSON-able metadata into one safetensors file. Raises VactkError as `atomic_path` does."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(contiguous, temporary, metadata={METADATA_KEY: json.dumps(metadata)})
        except SafetensorError as error:  # it reports failed writes as its own error
            raise OSError(str(error)) from error
        temporary.chmod(mode)  # safetensors makes files that only their owner can read


def has_metadata(path: Path) -> bool:
    """Whether a safetensors file is one of `save_tensors`. Raises VactkError when it is absent or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error


def read_metadata(path: Path) -> dict[str, Any]:
    """What `save_tensors` was told about a file, without reading its tensors.

    Raises VactkError when the file is absent, damaged, or not one of vactk's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error
    if text is None:
        raise VactkError(
            f"'{path}' is a safetensors file but not a vactk checkpoint; "
            "weights of a plain CLIP go to --pretrained"
        )
    try:
        metadata = parse_json(text)
    except ValueError as error:
        raise VactkError(f"the metadata of '{path}' are damaged: {error}") from error
    if not isinstance(metadata, dict):
        raise VactkError(f"the metadata of '{path}' are damaged: not a mapping")
    return metadata


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises VactkError when it is absent or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error


def load_exactly(
    module: nn.Module, tensors: Mapping[str, Tensor], *, may_lack: Set[str], source: str
) -> None:
    """Load `tensors` into `module`, in which only the names in `may_lack` may be left as they are.

    Raises VactkError that names what is missing, unexpected, of another shape, or not finite.
    """
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_fit(own, tensors, may_lack=may_lack, source=source)
    module.load_state_dict(dict(tensors), strict=False)


def check_fit(
    own: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], *, may_lack: Set[str], source: str
) -> None:
    """Raises VactkError as `load_exactly` does, where a model's names and shapes are `own`."""
    missing = sorted(own.keys() - tensors.keys() - may_lack)
    unexpected = sorted(tensors.keys() - own.keys())
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {own[name]}"
        for name in sorted(own.keys() & tensors.keys())
        if own[name] != tuple(tensors[name].shape)
    ]
    problems = [
        f"{kind}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for kind, names in (("missing", missing), ("not in the model", unexpected), ("other shape", shapes))
        if names
    ]
    if problems:
        raise VactkError(f"{source} does not fit the model; {'; '.join(problems)}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise VactkError(f"{source} holds values that are not finite, the first in {name}")


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A short hash of names, shapes and first values of all tensors: tells models apart in milliseconds."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        values = tensors[name].detach().flatten()[:256].to("cpu", torch.float32)
        digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def unreadable(path: Path, error: Exception) -> VactkError:
    """The one-line error for a weights file that could not be read."""
    if not path.exists():
        return VactkError(f"there is no file '{path}'")
    if path.is_dir():
        return VactkError(f"'{path}' is a folder, not a weights file")
    return VactkError(f"'{path}' is damaged or not a safetensors file ({first_line(error)})")
