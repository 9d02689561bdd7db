"""Graphs in files of torch: torch.export's .pt2, and TorchScript."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from vactk.export.verify import Run, as_outputs

METADATA = "vactk.json"  # an extra file of .pt2 and TorchScript archives


class Axis(NamedTuple):
    """An axis of an input whose length is free."""

    name: str
    smallest: int = 1
    largest: int | None = None


@dataclass(frozen=True)
class GraphSpec:
    """A module to export as a graph, and its inputs."""

    name: str  # the stem of its file
    module: nn.Module
    input: str
    outputs: tuple[str, ...]
    example: Tensor  # input for tracing
    axes: Mapping[int, Axis]  # the free ones of its input; all others are fixed
    metadata: Mapping[str, Any]  # JSON in the file
    reference: Run  # the model as it is evaluated


def trace(graph: GraphSpec) -> ExportedProgram:
    """Trace a graph, valid for all lengths of its free axes."""
    dims = {axis: Dim(name, min=low, max=high) for axis, (name, low, high) in graph.axes.items()}
    with _traceable():
        return torch.export.export(
            graph.module,
            (graph.example.contiguous(),),
            dynamic_shapes=(dims,),
            # shapes that cannot be proved in general become checks at run time
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def write_pt2(graph: GraphSpec, path: Path) -> None:
    """A program for `torch.export.load`, with the graph's metadata as JSON in its extra file `vactk.json`."""
    torch.export.save(trace(graph), path, extra_files={METADATA: json.dumps(graph.metadata)})


def run_pt2(path: Path) -> Run:
    """A .pt2 file as a function."""
    program = torch.export.load(path).module()
    return lambda value: as_outputs(program(value))


def write_torchscript(graph: GraphSpec, path: Path) -> None:
    """A module for `torch.jit.load`, without this package or its code. The format is torch's legacy."""
    with _traceable(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # that shapes become constants: all that are free are checked afterwards
        script = torch.jit.trace(graph.module, (graph.example,), check_trace=False)
        torch.jit.save(script, str(path), _extra_files={METADATA: json.dumps(graph.metadata)})


def run_torchscript(path: Path) -> Run:
    """A TorchScript file as a function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.load(str(path), map_location="cpu")
    return lambda value: as_outputs(script(value))


def fixed(axes: Mapping[int, Axis], names: Sequence[str]) -> dict[int, Axis]:
    """`axes` without those called so."""
    return {number: axis for number, axis in axes.items() if axis.name not in names}


@contextlib.contextmanager
def _traceable() -> Iterator[None]:
    """Attention as plain operations, which every format knows, and no progress reports on the root logger."""
    fast = torch.backends.mha.get_fastpath_enabled()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    torch.backends.mha.set_fastpath_enabled(False)
    logger.setLevel(logging.ERROR)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        logger.setLevel(level)
