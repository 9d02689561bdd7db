"""Every format by its name, and the one way into all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vactk.errors import VactkError, pick
from vactk.export.clip_folders import Measure, export_huggingface, export_open_clip
from vactk.export.graph_specs import ENCODERS, Samples, build_graph_specs, cases_for
from vactk.export.metadata import InferenceSpec
from vactk.export.onnx_files import OPSETS, PRECISIONS, require, run_onnx, write_onnx
from vactk.export.torch_files import GraphSpec, run_pt2, run_torchscript, write_pt2, write_torchscript
from vactk.export.verify import (
    TOLERANCES,
    ExportedFile,
    Run,
    max_difference,
    open_file,
    refuse_wrong,
    sizes_and_hashes,
)
from vactk.files.atomic import whole_folder
from vactk.models.video_model import VideoModel
from vactk.progress import Progress

MANIFEST = "export.json"


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Format, precision and contents of an export. Raises VactkError for what no format can."""

    format: str = "onnx"
    parts: tuple[str, ...] = ()  # video, text, classifier; empty: all there are
    precision: str = "float32"  # float16 and int8 for ONNX alone
    opset: int = 18  # of ONNX
    static_frames: bool = False  # take exactly the usual number of frames, for runtimes that need to know it
    tolerance: float | None = None  # null: by precision

    def __post_init__(self) -> None:
        pick(FORMATS, self.format, "format")
        pick(PRECISIONS, self.precision, "precision")
        for name in self.parts:
            pick(ENCODERS, name, "part")
        if self.precision == "int8" and self.parts and "video" not in self.parts:
            raise VactkError("--quantize measures its loss with the video encoder: add --part video")
        if self.format != "onnx" and self.precision != "float32":
            raise VactkError(f"{self.precision} is for --format onnx alone, got --format {self.format}")
        if self.format != "onnx" and self.opset != ExportConfig.opset:
            raise VactkError(f"--opset is for --format onnx alone, got --format {self.format}")
        if self.opset not in OPSETS:
            raise VactkError(f"--opset must be from {OPSETS[0]} to {OPSETS[-1]}, got {self.opset}")
        if self.format in PLAIN and (self.parts or self.static_frames):
            raise VactkError(
                f"--format {self.format} is all of a model's weights: leave out --part and --static-frames"
            )
        if self.tolerance is not None and not 0 <= self.tolerance < float("inf"):
            raise VactkError(f"--tolerance must be a number of at least 0, got {self.tolerance}")

    @property
    def allowed(self) -> float:
        """The tolerance that holds."""
        return TOLERANCES[self.precision] if self.tolerance is None else self.tolerance


@dataclass(frozen=True)
class Exported:
    """The files of an export, and notes for the user."""

    files: tuple[ExportedFile, ...]
    notes: tuple[str, ...] = ()


def export_model(
    model: VideoModel,
    output: Path,
    config: ExportConfig,
    inference: InferenceSpec,
    samples: Samples,
    progress: Progress = lambda done, total: None,
    inspect: Callable[[Path], None] = lambda folder: None,
    measure: Measure = lambda model: (),
) -> Exported:
    """Write a model to the folder `output`, which must not hold anything yet, and check it against the model.

    `inspect` is called with the folder that holds the finished files before it is moved to `output`; `measure`
    gives a model card the results of what was written, where they are not the video model's. Raises VactkError
    when a file is wrong, and leaves nothing behind then.
    """
    refuse_not_finite(model)
    with whole_folder(output) as folder:
        exported = FORMATS[config.format](model, folder, config, inference, samples, progress, measure)
        inspect(folder)
        files = sizes_and_hashes(exported.files, folder)
        manifest = {"files": [asdict(file) for file in files], "notes": list(exported.notes)}
        text = json.dumps(manifest, indent=2, ensure_ascii=False, default=str)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return Exported(files, exported.notes)


def refuse_not_finite(model: VideoModel) -> None:
    """Raises VactkError when a weight of the model is NaN or infinite."""
    for name, tensor in model.module_dict().state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise VactkError(
                f"the model holds values that are not finite, the first in {name}: nothing to export"
            )


@dataclass(frozen=True)
class GraphFormat:
    """A format that holds graphs."""

    suffix: str
    write: Callable[..., None]
    run: Callable[[Path], Run]
    title: str


GRAPHS = {
    "onnx": GraphFormat(".onnx", write_onnx, run_onnx, "ONNX"),
    "pt2": GraphFormat(".pt2", write_pt2, run_pt2, "torch.export"),
    "torchscript": GraphFormat(".pt", write_torchscript, run_torchscript, "TorchScript"),
}


def _export_graphs(
    kind: GraphFormat,
    model: VideoModel,
    folder: Path,
    config: ExportConfig,
    inference: InferenceSpec,
    samples: Samples,
    progress: Progress,
    measure: Measure,
) -> Exported:
    if config.format == "onnx":
        require("onnx", "onnxscript", "onnxruntime")
    graphs = build_graph_specs(model, inference, wanted=config.parts, static_frames=config.static_frames)
    files = []
    for number, graph in enumerate(graphs):
        progress(2 * number, 2 * len(graphs))
        path = folder / f"{graph.name}{kind.suffix}"
        metadata = {**graph.metadata, "precision": config.precision}
        write = kind.write
        if config.format == "onnx":
            metadata["opset"] = config.opset
            write = partial(write_onnx, precision=config.precision, opset=config.opset)
        write(replace(graph, metadata=metadata), path)
        progress(2 * number + 1, 2 * len(graphs))
        files.append(_checked(graph, path, kind, model, config, samples))
    progress(2 * len(graphs), 2 * len(graphs))
    notes = (
        () if inference.labels else ("no classes are known, so there is no classifier: --labels names some",)
    )
    return Exported(tuple(files), notes if not config.parts else ())


def _checked(
    graph: GraphSpec, path: Path, kind: GraphFormat, model: VideoModel, config: ExportConfig, samples: Samples
) -> ExportedFile:
    what = f"{path.name} ({kind.title}, {config.precision})"
    run = open_file(kind.run, path, what)
    difference = max_difference(graph.reference, run, cases_for(graph, model, samples), what)
    refuse_wrong(difference, config.allowed, what)
    takes: Any = graph.metadata["frames"]["takes"] if "frames" in graph.metadata else None
    return ExportedFile(
        path=path.name,
        part=graph.name,
        format=config.format,
        precision=config.precision,
        max_abs_diff=difference.largest,
        differences=difference.absolute,
        tolerance=config.allowed,
        frames=takes,
        opset=config.opset if config.format == "onnx" else None,
    )


def _export_plain(
    export: Callable[..., tuple[tuple[ExportedFile, ...], tuple[str, ...]]],
    model: VideoModel,
    folder: Path,
    config: ExportConfig,
    inference: InferenceSpec,
    samples: Samples,
    progress: Progress,
    measure: Measure,
) -> Exported:
    progress(0, 1)
    exported = Exported(*export(model, folder, inference, samples, config.allowed, measure))
    progress(1, 1)
    return exported


PLAIN = {"open_clip": export_open_clip, "huggingface": export_huggingface}
FORMATS: dict[str, Callable[..., Exported]] = {
    **{name: partial(_export_graphs, kind) for name, kind in GRAPHS.items()},
    **{name: partial(_export_plain, export) for name, export in PLAIN.items()},
}
