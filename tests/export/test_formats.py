from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vactk.errors import VactkError
from vactk.export import formats, onnx_files
from vactk.export.formats import GRAPHS, ExportConfig, export_model
from vactk.export.graph_specs import Samples, build_graph_specs
from vactk.models.temporal.adapters import FrameAdapterConfig, NoTemporal, STAdapterConfig, TEDAdapterConfig
from vactk.models.temporal.frame_attention import CrossFrameAttentionConfig, NeighbourAttentionConfig
from vactk.models.text_tower import TextAdapterConfig

MODULES = {
    "none": NoTemporal(),
    "neighbour": NeighbourAttentionConfig(),
    "masked": NeighbourAttentionConfig(window=2, ends="masked"),
    "cross": CrossFrameAttentionConfig(heads=2),
    "st": STAdapterConfig(width=4),
    "ted": TEDAdapterConfig(width=4, placement="both"),
}


# what is slow to export is here for the modules that have a form of their own for it;
# tests/benchmarks/export.py goes through all of them in all formats
CHOSEN = [
    *((name, "torchscript") for name in MODULES),
    *((name, "pt2") for name in ("masked", "ted")),
    *((name, "onnx") for name in ("masked", "ted")),
]


@pytest.mark.parametrize(("name", "kind"), CHOSEN)
@torch.no_grad()
def test_modules_in_every_format_for_any_number_of_videos_and_frames(
    small_model, inference, samples, tmp_path, name, kind
):
    model = small_model(temporal=MODULES[name], frame_adapter=FrameAdapterConfig(enabled=name == "ted"))
    config = ExportConfig(format=kind, parts=("video",))
    exported = export_model(model, tmp_path / "out", config, inference(), samples)
    (file,) = exported.files
    assert file.frames == "any"
    assert file.differences.keys() == {"random", "real"}
    assert file.max_abs_diff < 1e-5
    path = tmp_path / "out" / file.path
    assert file.bytes == path.stat().st_size
    run = GRAPHS[kind].run(path)
    for batch, frames in ((1, 1), (2, 2), (3, 5), (1, 16)):
        video = torch.randn(batch, frames, 3, 32, 32)
        (found,) = run(video)
        expected = torch.nn.functional.normalize(model.video_clip.encode_video(video), dim=-1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
@torch.no_grad()
def test_text_encoder_and_classifier(small_model, inference, samples, tmp_path, kind):
    model = small_model(text_adapter=TextAdapterConfig(layers=1, width=4), classes=("run", "jump", "swim"))
    config = ExportConfig(format=kind, parts=("text", "classifier"))
    asked = inference(answer="ensemble")
    exported = export_model(model, tmp_path / "out", config, asked, samples)
    assert [file.part for file in exported.files] == ["text_encoder", "classifier"]
    tokens = model.backbone.tokenize(["a dog", "a cat on a mat"])
    expected = torch.nn.functional.normalize(model.video_clip.encode_text(tokens), dim=-1)
    run = GRAPHS[kind].run(tmp_path / "out" / exported.files[0].path)
    for length in (7, 16):
        torch.testing.assert_close(run(tokens[:, :length])[0], expected, rtol=0, atol=1e-5)
    _, probabilities = GRAPHS[kind].run(tmp_path / "out" / exported.files[1].path)(
        torch.randn(2, 4, 3, 32, 32)
    )
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))


def test_onnx_says_all_that_is_needed_to_use_it_and_static_frames_are_static(
    small_model, inference, samples, tmp_path
):
    import onnx

    model = small_model(temporal=NeighbourAttentionConfig())
    asked = inference(views=2)
    config = ExportConfig(parts=("classifier",), opset=20, static_frames=True)
    exported = export_model(model, tmp_path / "out", config, asked, samples)
    proto = onnx.load(str(tmp_path / "out" / "classifier.onnx"))
    assert [entry.version for entry in proto.opset_import if not entry.domain] == [20]
    shape = [axis.dim_param or axis.dim_value for axis in proto.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 3, 3, 32, 32]
    assert exported.files[0].frames == 3
    metadata = json.loads({entry.key: entry.value for entry in proto.metadata_props}["vactk"])
    assert metadata["labels"] == ["run", "jump", "swim"]
    assert metadata["templates"] == ["a video of {}"]
    assert metadata["frames"] == {"takes": 3, "usual": 3}
    assert metadata["sampling"]["name"] == "uniform"
    assert metadata["views"] == 2
    assert metadata["precision"] == "float32"
    assert metadata["opset"] == 20
    assert metadata["preprocessing"]["mean"] == [0.5, 0.4, 0.3]
    assert metadata["preprocessing"]["size"] == 32
    assert metadata["model"]["temporal"]["name"] == "neighbour_attention"
    manifest = json.loads((tmp_path / "out" / "export.json").read_text())
    assert manifest["files"][0]["max_abs_diff"] < 1e-4
    assert len(manifest["files"][0]["sha256"]) == 64
    run = onnx_files.run_onnx(tmp_path / "out" / "classifier.onnx")
    assert run(torch.randn(5, 3, 3, 32, 32))[0].shape == (5, 3)
    with pytest.raises(Exception, match="Got: 4 Expected: 3"):
        run(torch.randn(5, 4, 3, 32, 32))


@pytest.mark.parametrize(("name", "part"), [("cross", "video"), ("none", "text")])
def test_half_precision(small_model, inference, samples, tmp_path, name, part):
    import onnx

    config = ExportConfig(precision="float16", parts=(part,))
    exported = export_model(
        small_model(temporal=MODULES[name]), tmp_path / "out", config, inference(), samples
    )
    (file,) = exported.files
    assert 1e-6 < file.max_abs_diff < 0.02
    proto = onnx.load(str(tmp_path / "out" / file.path))
    large = {tensor.data_type for tensor in proto.graph.initializer if np.prod(tensor.dims) >= 32 * 32}
    assert onnx.TensorProto.FLOAT16 in large
    types = {value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)}
    assert types <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


def test_a_wrong_result_fails_and_leaves_nothing(small_model, inference, samples, tmp_path, monkeypatch):
    kind = "torchscript"
    right = GRAPHS[kind]

    def wrong(path):
        run = right.run(path)
        return lambda value: [out + 0.001 for out in run(value)]

    broken = formats.GraphFormat(right.suffix, right.write, wrong, right.title)
    monkeypatch.setitem(formats.FORMATS, kind, formats.partial(formats._export_graphs, broken))
    with pytest.raises(
        VactkError, match=r"video_encoder.* differs from the model by 0.001, more than 0.0001"
    ):
        export_model(small_model(), tmp_path / "out", ExportConfig(format=kind), inference(), samples)
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_values_that_are_not_finite(small_model, inference, tmp_path):
    model = small_model()
    with torch.no_grad():
        model.video_clip.backbone.visual.proj[0, 0] = float("nan")
    with pytest.raises(VactkError, match=r"not finite, the first in clip.visual.proj: nothing to export"):
        export_model(model, tmp_path / "out", ExportConfig(), inference(), Samples())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "onxx"}, "unknown format 'onxx'; did you mean 'onnx'"),
        ({"format": "pt2", "precision": "float16"}, "float16 is for --format onnx alone, got --format pt2"),
        ({"format": "torchscript", "opset": 20}, "--opset is for --format onnx alone"),
        ({"opset": 3}, "--opset must be from 18 to 23, got 3"),
        ({"format": "open_clip", "parts": ("video",)}, "leave out --part"),
        ({"tolerance": -1.0}, "--tolerance must be a number of at least 0"),
        ({"tolerance": float("nan")}, "--tolerance must be a number of at least 0"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(VactkError, match=message):
        ExportConfig(**settings)


def test_parts_that_cannot_be(small_model, inference):
    with pytest.raises(VactkError, match="a classifier needs classes: name them with --labels"):
        build_graph_specs(small_model(), inference(classes=()), wanted=("classifier",))
    with pytest.raises(VactkError, match="--by class_head needs a checkpoint with a class head"):
        build_graph_specs(small_model(), inference(answer="class_head"))
    model = small_model(classes=("run", "jump", "swim"))
    with pytest.raises(VactkError, match="view_mean is logits"):
        build_graph_specs(model, inference(answer="ensemble", view_mean="logits"))


def test_a_missing_package_names_the_extra(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(onnx_files.importlib, "import_module", missing)
    with pytest.raises(
        VactkError, match=r"package 'onnxruntime', which is not installed: pip install 'vactk\[onnx\]'"
    ):
        onnx_files.require("onnxruntime")
