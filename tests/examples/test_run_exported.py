"""The example that runs an exported classifier: the same frames, the same pixels, the same labels as vactk."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from vactk.cli.app import app
from vactk.config import to_dict
from vactk.data.config import SAMPLING, M2CLIPSampling, OpenVCLIPSampling
from vactk.video import Timeline
from vactk.video.sampling import Clock, dense_views, uniform_segments
from vactk.video.transforms import SCALINGS, TransformConfig, eval_transform

SCRIPT = Path(__file__).parents[2] / "examples" / "run_exported.py"
LABELS = "star growing,house moving left,a very long label"


@pytest.fixture(scope="module")
def example():
    pytest.importorskip("onnxruntime")
    spec = importlib.util.spec_from_file_location("run_exported", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("num_frames", [1, 5, 12, 100])
@pytest.mark.parametrize("views", [1, 3])
def test_the_frames_are_vactks(example, num_frames, views):
    clock = example.Clock(list(range(num_frames)), 25.0)
    found = example.frame_numbers(clock, 8, views, {"name": "uniform"})
    assert (found == uniform_segments(num_frames, 8, num_views=views).numpy()).all()
    found = example.frame_numbers(clock, 8, views, {"name": "dense", "stride": 3})
    assert (found == dense_views(num_frames, 8, 3, num_views=views).numpy()).all()


@pytest.mark.parametrize("starts", ["release", "spread"])
@pytest.mark.parametrize("stated", [0, 1, 512])
@pytest.mark.parametrize("views", [1, 3])
def test_so_are_those_of_the_releases(example, stated, views, starts):
    for count in (1, 2, 40, 113, 300):
        for rate in (12.0, 30.0, 30000 / 1001):
            stamps = [
                (number ^ 1 if number // 2 * 2 + 1 < count else number) * 512 for number in range(count)
            ]
            about = (rate, count, stated * count)
            theirs = Clock(
                stamps=torch.tensor(stamps), rate=rate, stated_frames=count, stated_ticks=stated * count
            )
            timeline = Timeline(times_s=torch.arange(count).double(), fps=rate, stated=theirs)
            for sampling in (OpenVCLIPSampling(stride=9, starts=starts), M2CLIPSampling(stride=views - 1)):
                name = next(name for name, kind in SAMPLING.items() if kind is type(sampling))
                facts = {"name": name, **to_dict(sampling)}
                found = example.frame_numbers(example.Clock(stamps, *about), 8, views, facts)
                expected = sampling.indices(timeline, 8, views, train=False)
                assert found.tolist() == expected.tolist(), (sampling, count, rate)


@pytest.mark.parametrize("shape", [(64, 96), (97, 71), (33, 50), (240, 320), (32, 32)])
@pytest.mark.parametrize("crops", [1, 3])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_pixels_are_vactks(example, shape, crops, scaling):
    frames = torch.randint(0, 256, (2, *shape, 3), generator=torch.Generator().manual_seed(0)).byte()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    settings = TransformConfig(eval_crops=crops, scaling=scaling, eval_short_side=36)
    transform = eval_transform(settings, 32, mean, std)
    expected = transform(frames.permute(0, 3, 1, 2))  # (crops, T, 3, 32, 32)
    places = [0.5] if crops == 1 else [0.0, 0.5, 1.0]
    how = {"size": 32, "short_side": 36, "scaling": scaling, "mean": mean, "std": std, "crops": places}
    facts = {"preprocessing": how}
    found = torch.from_numpy(example.prepare(frames.numpy(), 1, facts))
    levels = ((found - expected) * torch.tensor(std)[:, None, None] * 255).abs()
    assert found.shape == expected.shape
    assert levels.max() < (1.01 if scaling == "clip" else 0.02)  # one step of 256, where rounding differs
    assert (levels > 0.5).float().mean() < 0.02


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two video files, one of which is shorter than what is asked for."""
    folder = tmp_path_factory.mktemp("clips")
    for name, count in (("a", 30), ("b", 2)):
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=12)
            stream.width, stream.height, stream.pix_fmt = 112, 80, "yuv420p"
            for place in range(count):
                frame = np.full((80, 112, 3), 90, np.uint8)
                frame[20:50, 2 * place : 2 * place + 30] = (20, 200, 60)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    return folder


def command(*args):
    result = CliRunner().invoke(app, list(map(str, args)), prog_name="vactk")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def exported(clips, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    out = tmp_path_factory.mktemp("exported") / "out"
    common = (
        "--backbone",
        "toy",
        "--labels",
        LABELS,
        "--views",
        2,
        "--part",
        "classifier",
        "--static-frames",
    )
    command("export", *common, "--output", out, "--video", clips / "a.mp4", "--json")
    return out / "classifier.onnx"


def test_the_labels_are_those_of_zeroshot_and_no_torch_is_needed(exported, clips):
    videos = [clips / "a.mp4", clips / "b.mp4"]
    expected = command("zeroshot", *videos, "--labels", LABELS, "--backbone", "toy", "--views", 2, "--json")
    code = (
        "import sys, runpy\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'vactk', 'torchvision', 'PIL'} & set(sys.modules)"
    )
    args = [sys.executable, "-c", code, SCRIPT, exported, *videos, "--json"]
    done = subprocess.run(list(map(str, args)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for ours, theirs in zip(found["predictions"], expected["predictions"], strict=True):
        assert ours["video"] == theirs["video"]
        assert [item["label"] for item in ours["labels"]] == [item["label"] for item in theirs["labels"]]
        for one, two in zip(ours["labels"], theirs["labels"], strict=True):
            assert one["probability"] == pytest.approx(two["probability"], abs=0.01)


def test_mistakes(exported, clips, example, capsys, monkeypatch, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"x")
    (tmp_path / "x.mp4").write_bytes(b"x")
    cases = [
        ((exported, clips / "a.mp4", "--frames", 32), "was exported for 8 frames and cannot take 32"),
        ((exported, clips / "absent.mp4"), "cannot read"),
        ((exported, tmp_path / "x.mp4"), "cannot read"),
        ((tmp_path / "absent.onnx", clips / "a.mp4"), "there is no file"),
        ((tmp_path / "x.onnx", clips / "a.mp4"), "is no ONNX model"),
    ]
    for args, message in cases:
        monkeypatch.setattr(sys, "argv", ["run_exported.py", *map(str, args)])
        assert example.main() == 1
        said = capsys.readouterr()
        assert said.err.startswith("Error: ")
        assert message in said.err
        assert len(said.err.splitlines()) == 1
