"""Weights files of other projects as plain state dicts, without running any code that they carry."""

from __future__ import annotations

import collections
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from vactk.errors import VactkError, first_line
from vactk.weights.safetensors_file import read_tensors, unreadable

STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

# the only functions that a TorchScript archive's object tree may call
ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): lambda flat, offset, size, stride, *_: flat.as_strided(
        size, stride, offset
    ),
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch.jit._pickle", "build_intlist"): list,
    ("torch.jit._pickle", "build_doublelist"): list,
    ("torch.jit._pickle", "build_boollist"): list,
    ("torch.jit._pickle", "build_tensorlist"): list,
    ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
}

# classes of settings that projects keep beside their weights (ViFi-CLIP), read as the mappings that they are
INERT: list[Any] = [(collections.OrderedDict, "yacs.config.CfgNode")]

WRAPPERS = ("state_dict", "model_state", "model", "module")  # keys under which projects keep the weights


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, a .pt/.pth/.bin state dict or an OpenAI TorchScript archive.

    Names are as in the file, without the wrappers of checkpoints (`state_dict`, ...) and of data parallel
    training (`module.`). Raises VactkError when the file is absent, damaged, or holds anything but data.
    """
    if not path.is_file():
        raise unreadable(path, OSError())
    if path.suffix == ".safetensors":
        return read_tensors(path)
    tensors = _unwrap(_read_archive(path) if is_torchscript(path) else read_plain_data(path))
    if not tensors:
        raise VactkError(f"'{path}' holds no weights")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, as OpenAI's CLIP releases are."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # no archive; of damaged ones zipfile raises nearly anything
        return False


def read_plain_data(path: Path) -> Any:
    """Read plain values and tensors that torch.save wrote. Raises VactkError for code and damaged files."""
    _refuse_compressed(path)
    try:
        with torch.serialization.safe_globals(INERT):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise VactkError(
            f"'{path}' is damaged, or it carries code: only plain files of weights are read"
        ) from error
    except Exception as error:  # damaged bytes make torch's reader raise nearly anything
        raise VactkError(f"'{path}' is damaged or not a weights file ({first_line(error)})") from error


def _refuse_compressed(path: Path) -> None:
    """torch.save stores tensors as they are: a compressed one can only be there to unfold in memory."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [entry for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    except zipfile.BadZipFile as error:
        raise VactkError(f"'{path}' is damaged or not a weights file ({first_line(error)})") from error
    if packed:
        raise VactkError(
            f"'{path}' is not a weights file of torch's: '{packed[0].filename}' in it is compressed"
        )


def _unwrap(values: Any) -> dict[str, Tensor]:
    if not isinstance(values, Mapping):
        return {}
    for key in WRAPPERS:
        if isinstance(values.get(key), Mapping):
            return _unwrap(values[key])
    return {str(name): value for name, value in values.items() if isinstance(value, Tensor)}


def _read_archive(path: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            data = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(data) as file:
                root = _ArchiveReader(file, archive, data.removesuffix("data.pkl")).load()
    except Exception as error:  # as above, from pickle, zipfile and as_strided
        raise VactkError(f"'{path}' is not a TorchScript archive of weights ({first_line(error)})") from error
    tensors: dict[str, Tensor] = {}
    _collect(root, "", tensors)
    return tensors


class _ScriptObject:
    """Stands in for every class of a TorchScript archive: it only keeps its state."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state


class _ArchiveReader(pickle.Unpickler):
    """Reads a TorchScript archive's object tree; what is not a tensor or a plain container is refused."""

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(file)
        self.archive = archive
        self.prefix = prefix

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _ScriptObject
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage of the archive as a flat tensor. Real archives store them uncompressed."""
        kind, dtype, key, _, num_elements = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        entry = self.archive.getinfo(f"{self.prefix}data/{key}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != num_elements * dtype.itemsize:
            raise pickle.UnpicklingError(f"the size of tensor {key} is wrong")
        if num_elements == 0:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(self.archive.read(entry)), dtype=dtype)


def _collect(node: Any, prefix: str, tensors: dict[str, Tensor]) -> None:
    """Every tensor of an object tree under the name that `state_dict` would give it."""
    state = node.state if isinstance(node, _ScriptObject) else {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, _ScriptObject):
            _collect(value, f"{prefix}{name}.", tensors)
