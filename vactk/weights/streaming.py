"""Tensors that are read and written a few rows at a time, so that files larger than memory can be merged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vactk.errors import VactkError
from vactk.files.atomic import atomic_path
from vactk.weights.safetensors_file import unreadable

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
CHUNK_BYTES = 8 * 2**20  # rows read at a time


class TensorEntry(NamedTuple):
    """Type and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class TensorReader(Protocol):
    """Tensors by name, read when they are asked for."""

    @property
    def entries(self) -> Mapping[str, TensorEntry]:
        """Type and shape of every tensor."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """The rows from `start` to `stop` of a tensor; a scalar whole."""


class FileTensors:
    """A safetensors file, mapped afresh for every read, so that pages read before do not stay in memory.

    `names` maps the names in use to the file's; without it the file's own are used. Raises VactkError when
    the file is absent, damaged, or holds a type that vactk does not know.
    """

    def __init__(self, path: Path, names: Mapping[str, str] | None = None) -> None:
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:
                self.names = dict(names or {name: name for name in file.keys()})  # noqa: SIM118 - not a mapping
                self.entries = {ours: self._entry(file, theirs) for ours, theirs in self.names.items()}
        except (OSError, SafetensorError) as error:
            raise unreadable(path, error) from error

    def _entry(self, file: Any, name: str) -> TensorEntry:
        tensor = file.get_slice(name)
        if tensor.get_dtype() not in DTYPES:
            raise VactkError(f"'{self.path}' holds '{name}' as {tensor.get_dtype()}, which is not supported")
        return TensorEntry(DTYPES[tensor.get_dtype()], tuple(tensor.get_shape()))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """The rows from `start` to `stop` of a tensor; a scalar whole."""
        try:
            with safe_open(self.path, framework="pt") as file:
                if not self.entries[name].shape or (start == 0 and stop is None):
                    return file.get_tensor(self.names[name])
                return file.get_slice(self.names[name])[start:stop]
        except (OSError, SafetensorError) as error:
            raise unreadable(self.path, error) from error


class DictTensors:
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.entries = {
            name: TensorEntry(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()
        }

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """The rows from `start` to `stop` of a tensor; a scalar whole."""
        tensor = self.tensors[name]
        return tensor[start:stop] if tensor.ndim else tensor


class LayeredTensors:
    """The first of several sources that has a tensor."""

    def __init__(self, *sources: TensorReader) -> None:
        self.sources = sources
        self.entries = {name: entry for source in reversed(sources) for name, entry in source.entries.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """The rows from `start` to `stop` of a tensor; a scalar whole."""
        source = next(source for source in self.sources if name in source.entries)
        return source.read(name, start, stop)


def row_ranges(entry: TensorEntry) -> Iterator[tuple[int, int | None]]:
    """Starts and stops of rows that hold about CHUNK_BYTES each."""
    if not entry.shape:
        yield 0, None
        return
    row_bytes = max(1, entry.dtype.itemsize * torch.Size(entry.shape[1:]).numel())
    step = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, entry.shape[0], step):
        yield start, min(start + step, entry.shape[0])


def write_tensors(
    path: Path,
    entries: Mapping[str, TensorEntry],
    rows: Callable[[str], Iterable[Tensor]],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file whose tensors come in chunks: `rows(name)` gives a tensor's values in order.

    The library can only write what is in memory, so the format is written here: the length of the header, the
    header, the values. Nothing is left behind when something goes wrong; raises VactkError as `atomic_path`.
    """
    order = sorted(
        entries, key=lambda name: (-entries[name].dtype.itemsize, name)
    )  # aligned, as the library does
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        dtype, shape = entries[name]
        start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as file, ThreadPoolExecutor(1) as writer:
        written = writer.submit(file.write, len(text).to_bytes(8, "little") + text)
        for name in order:
            for values in rows(name):  # these are made while the ones before are written
                flat = values.to(entries[name].dtype).contiguous().flatten()
                written.result()
                written = writer.submit(file.write, flat.view(torch.uint8).numpy().data)
        written.result()
        assert file.tell() == 8 + len(text) + end
