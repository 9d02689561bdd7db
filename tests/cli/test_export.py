from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from vactk.cli.app import app
from vactk.export import onnx_files


def run(*args):
    return CliRunner().invoke(app, ["export", *map(str, args)], prog_name="vactk")


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    """A real video file: a bright square that moves."""
    path = tmp_path_factory.mktemp("video") / "square.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for place in range(12):
            frame = np.full((64, 96, 3), 40, np.uint8)
            frame[20:44, 4 * place : 4 * place + 24] = (230, 60, 20)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run folder whose model was trained on two classes."""
    import torch

    from vactk.checkpoints.checkpoint import save_model
    from vactk.models.backbone import BackboneConfig
    from vactk.models.temporal.adapters import TEDAdapterConfig
    from vactk.models.video_model import Heads, ModelConfig, new_model

    torch.manual_seed(0)
    config = ModelConfig(backbone=BackboneConfig(name="toy"), temporal=TEDAdapterConfig(width=4))
    model = new_model(config, Heads(classes=("star growing", "moon rising"), class_head=True))
    with torch.no_grad():
        for parameter in model.video_clip.temporal.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("run")
    recipe = {"dataset": "shapes", "data": {"num_frames": 4, "views": 2}, "templates": "photo"}
    save_model(folder / "model.safetensors", model, towers=(), info={"recipe": recipe, "step": 7})
    return folder


def test_a_backbone_and_the_keys_of_the_result(clip_file, tmp_path):
    args = (
        "--backbone",
        "toy",
        "--format",
        "onnx",
        "--output",
        tmp_path / "out",
        "--video",
        clip_file,
        "--json",
    )
    result = run(*args, "--part", "video")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    (file,) = found["files"]
    assert {"path", "format", "max_abs_diff"} <= file.keys()
    assert file["path"] == str(tmp_path / "out" / "video_encoder.onnx")
    assert file["max_abs_diff"] < 1e-4
    assert file["differences"].keys() == {"random", "real"}
    assert Path(file["path"]).is_file()
    assert found["checked_on"] == str(clip_file)


@pytest.mark.parametrize(
    ("labels", "expected"), [(None, ["star growing", "moon rising"]), ("a,b,c", ["a", "b", "c"])]
)
def test_a_checkpoints_own_classes_or_others(checkpoint, clip_file, tmp_path, labels, expected):
    import torch

    more = ("--labels", labels) if labels else ()
    args = ("--checkpoint", checkpoint, "--format", "torchscript", "--output", tmp_path / "out", *more)
    result = run(*args, "--video", clip_file)
    assert result.exit_code == 0, result.stderr
    assert "classifier.pt" in result.stdout.replace("\n", "")
    extra = {"vactk.json": ""}
    torch.jit.load(str(tmp_path / "out" / "classifier.pt"), _extra_files=extra)
    metadata = json.loads(extra["vactk.json"])
    assert metadata["labels"] == expected
    assert metadata["frames"]["usual"] == 4
    assert metadata["views"] == 2
    assert metadata["source"]["step"] == 7
    assert metadata["templates"] == ["a photo of {}"]


def test_a_difference_above_the_tolerance_is_exit_1_and_leaves_nothing(clip_file, tmp_path):
    args = ("--backbone", "toy", "--format", "open_clip", "--tolerance", "0", "--output", tmp_path / "out")
    result = run(*args, "--video", clip_file)
    assert result.exit_code == 1
    said = "Error: open_clip_model.safetensors (open_clip) differs from the model by"
    assert result.stderr.splitlines()[-1].startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_quantisation_tells_its_loss(checkpoint, tmp_path):
    args = ("--checkpoint", checkpoint, "--quantize", "int8", "--part", "video", "--measure", "6", "--output")
    result = run(*args, tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    accuracy = json.loads(result.stdout)["accuracy"]
    assert accuracy["dataset"] == "shapes"
    assert accuracy["num_videos"] == 6
    top1 = accuracy["top1"]
    assert top1["loss"] == pytest.approx(top1["float32"] - top1["int8"])
    assert 0 <= accuracy["agreement"] <= 100
    import onnx

    proto = onnx.load(str(tmp_path / "out" / "video_encoder.onnx"))
    assert sum(tensor.data_type == onnx.TensorProto.INT8 for tensor in proto.graph.initializer) >= 10


def test_results_go_into_the_model_card(checkpoint, clip_file, tmp_path):
    (tmp_path / "result.json").write_text(
        json.dumps({"protocol": "shapes/unseen", "top1": 47.9, "hash": "a1b2"})
    )
    args = (
        "--checkpoint",
        checkpoint,
        "--format",
        "huggingface",
        "--output",
        tmp_path / "out",
        "--video",
        clip_file,
    )
    result = run(*args, "--results", tmp_path / "result.json")
    assert result.exit_code == 0, result.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| shapes/unseen | top1 47.90 |" in card
    assert "a1b2" in card
    assert "num_frames: 4" in card


def test_an_existing_output_is_kept(tmp_path):
    (tmp_path / "a").write_text("mine")
    result = run("--backbone", "toy", "--output", tmp_path)
    assert result.exit_code == 1
    assert f"--output '{tmp_path}' is a folder with files in it; choose another" in result.stderr
    assert (tmp_path / "a").read_text() == "mine"


def test_a_missing_package_is_named_before_any_work(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(onnx_files.importlib, "import_module", missing)
    result = run("--backbone", "toy", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "pip install 'vactk[onnx]'" in result.stderr


def test_a_video_that_cannot_be_read(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    args = (
        "--backbone",
        "toy",
        "--format",
        "pt2",
        "--output",
        tmp_path / "out",
        "--video",
        tmp_path / "a.mp4",
    )
    result = run(*args)
    assert result.exit_code == 1
    assert "cannot check on a real video" in result.stderr
    assert not (tmp_path / "out").exists()
