"""Graphs as ONNX: in float32, float16, or with weights of 8 bits, and run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from vactk.errors import VactkError
from vactk.export.torch_files import GraphSpec, trace
from vactk.export.verify import Run

OPSETS = (18, 19, 20, 21, 22, 23)
METADATA_KEY = "vactk"  # in the model's metadata: the graph's metadata as JSON
EXTERNAL_FROM = 1_800_000_000  # bytes of weights; ONNX's own files end at 2 GB

# what half precision is too narrow for: sums over many channels, exponentials, norms, small constants
IN_FLOAT32 = (
    "LayerNormalization",
    "Softmax",
    "ReduceMean",
    "ReduceL2",
    "Log",
    "Clip",
    "Div",
    "Range",
    "ArgMax",
)


def write_onnx(graph: GraphSpec, path: Path, *, precision: str = "float32", opset: int = 18) -> None:
    """Write a graph as ONNX, with its metadata inside. Raises VactkError when packages are missing.

    "float16" keeps inputs and outputs in float32. "int8" keeps weights of matrix products in 8 bits and
    rounds what they multiply as it comes (dynamic quantisation).
    """
    require("onnx", "onnxscript", "onnxruntime")
    with _quiet():
        program = torch.onnx.export(
            trace(graph),
            dynamo=True,
            opset_version=opset,
            input_names=[graph.input],
            output_names=list(graph.outputs),
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props[METADATA_KEY] = json.dumps(graph.metadata)
        _name_axes(program.model, graph)
        program.save(str(path), external_data=_bytes_of(graph) > EXTERNAL_FROM)
    PRECISIONS[precision](path)


def run_onnx(path: Path) -> Run:
    """An ONNX file as a function, by ONNX Runtime on the CPU, with as many threads as torch has."""
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda value: [torch.from_numpy(out) for out in session.run(None, {name: value.numpy()})]


def require(*packages: str) -> None:
    """Raises VactkError, with the extra to install, when one of ONNX's packages is missing."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise VactkError(
                f"ONNX needs the package '{package}', which is not installed: pip install 'vactk[onnx]'"
            ) from error


def _name_axes(model: Any, graph: GraphSpec) -> None:
    """The names of free axes in inputs and outputs, where the exporter numbered them."""
    symbols = {}
    for number, axis in graph.axes.items():
        symbols[str(model.graph.inputs[0].shape[number])] = axis.name
    for value in (*model.graph.inputs, *model.graph.outputs):
        for number, length in enumerate(value.shape):
            if str(length) in symbols:
                value.shape[number] = symbols[str(length)]


def _to_float16(path: Path) -> None:
    import onnx
    from onnxconverter_common.float16 import convert_float_to_float16

    model = onnx.load(str(path))
    with _quiet():  # it tells of every constant that is rounded
        half = convert_float_to_float16(
            model, keep_io_types=True, op_block_list=list(IN_FLOAT32), disable_shape_infer=True
        )
    _as_float32(half)
    _replace(path, half)


def _as_float32(model: Any) -> None:
    """Outputs that the converter made float16, because float32 operations give them, as they were."""
    import onnx

    half = [out for out in model.graph.output if out.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16]
    for output in half:
        inner = f"{output.name}_float16"
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [inner if name == output.name else name for name in names]
        cast = onnx.helper.make_node("Cast", [inner], [output.name], to=onnx.TensorProto.FLOAT)
        model.graph.node.append(cast)
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def _to_int8(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folded = path.with_suffix(".folded.onnx")  # weights are recognised only where nothing stands before them
    external = _external(path)
    with _quiet():
        quant_pre_process(
            str(path), str(folded), skip_symbolic_shape=True, save_as_external_data=external is not None
        )
        quantize_dynamic(
            str(folded),
            str(path),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
            use_external_data_format=external is not None,
        )
    for file in path.parent.glob(f"{folded.name}*"):
        file.unlink()


def _replace(path: Path, model: Any) -> None:
    import onnx

    external = _external(path)
    if external is not None:
        external.unlink()
    large = model.ByteSize() > EXTERNAL_FROM
    onnx.save(model, str(path), save_as_external_data=large, location=f"{path.name}.data")


def _external(path: Path) -> Path | None:
    data = path.with_name(f"{path.name}.data")
    return data if data.exists() else None


def _bytes_of(graph: GraphSpec) -> int:
    return sum(tensor.nbytes for tensor in graph.module.state_dict().values())


def _as_it_is(path: Path) -> None:
    pass


PRECISIONS: dict[str, Callable[[Path], None]] = {
    "float32": _as_it_is,
    "float16": _to_float16,
    "int8": _to_int8,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters, which report to stdout, warnings and loggers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
