from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from vactk.checkpoints.checkpoint import load_model, save_model
from vactk.cli.app import app
from vactk.cli.interpolate import read_sweep
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split
from vactk.data.video_dataset import VideoDataset
from vactk.evaluate import pictures
from vactk.models.backbone import BackboneConfig
from vactk.models.temporal.adapters import TEDAdapterConfig
from vactk.models.temporal.frame_attention import NeighbourAttentionConfig
from vactk.models.video_model import ModelConfig, new_model

CLASSES = ("star moving left", "star moving right", "star moving up", "heart moving down")
TOY = BackboneConfig(name="toy")
MEASURE = ["--dataset", "shapes", "--frames", 2, "--workers", 0]


@pytest.fixture(autouse=True)
def small_world(monkeypatch, tmp_path):
    for name, seed in (("seen", 1), ("unseen", 2)):
        monkeypatch.setitem(clips.SPLITS, name, Split(classes=CLASSES, videos_per_class=2, seed=seed))
    monkeypatch.setenv("VACTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    make("a.safetensors", 1)
    make("b.safetensors", 2)
    make("adapters.safetensors", 3, towers=(), temporal=TEDAdapterConfig(width=4))


def make(path, seed, towers=("vision",), **config):
    torch.manual_seed(seed)
    model = new_model(ModelConfig(backbone=TOY, **config))
    with torch.no_grad():
        for name, parameter in model.module_dict().named_parameters():
            if not name.startswith("clip.") or (towers and name.startswith("clip.visual.")):
                parameter.add_(0.05 * torch.randn_like(parameter))
    save_model(Path(path), model, towers=towers, info={"recipe": {"templates": "object"}})


def run(*args):
    return CliRunner().invoke(app, ["interpolate", *(str(arg) for arg in args)], prog_name="vactk")


def answer(*args):
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(*args):
    """The error message; no file came into being or changed."""
    before = {path: path.read_bytes() for path in Path().glob("*.*")}
    result = run(*args)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert {path: path.read_bytes() for path in Path().glob("*.*")} == before
    return result.stderr


def test_as_typed_in_the_readme(tmp_path):
    result = run("a.safetensors", "b.safetensors", "--alpha", 0.5)
    assert result.exit_code == 0, result.stderr
    assert "A = a.safetensors" in result.stdout
    assert "interpolated.safetensors = (1 - 0.5) A + 0.5 B" in result.stdout
    again = answer("a.safetensors", "b.safetensors", "--alpha", 0.25)
    assert again["output"] == "interpolated-2.safetensors"
    assert again["alpha"] == 0.25
    a, b, found = (load_file(f"{n}.safetensors") for n in ("a", "b", "interpolated-2"))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, 0.75 * a[name] + 0.25 * b[name])
    info = load_model(tmp_path / "interpolated-2.safetensors").info
    assert [parent["path"] for parent in info["parents"]] == ["a.safetensors", "b.safetensors"]
    assert [parent["weight"] for parent in info["parents"]] == [0.75, 0.25]
    assert all(len(parent["sha256"]) == 64 for parent in info["parents"])
    assert info["alpha"] == 0.25


def test_the_direction_of_alpha_is_in_the_help():
    text = " ".join(run("--help").stdout.replace("│", " ").split())
    assert "(1 - alpha) A + alpha B: 0 is A, 1 is B" in text


def test_weights_soups_task_vectors_and_parts():
    answer("a.safetensors", "b.safetensors", "--weights", "3,1", "--output", "w.safetensors")
    answer("a.safetensors", "b.safetensors", "--alpha", 0.25, "--output", "x.safetensors")
    w, x = load_file("w.safetensors"), load_file("x.safetensors")
    assert all(torch.allclose(w[name], x[name]) for name in w)
    soup = answer("a.safetensors", "b.safetensors", "adapters.safetensors", "--soup", "uniform")
    assert soup["alpha"] is None
    assert soup["formula"] == "uniform mean"
    task = answer("a.safetensors", "b.safetensors", "a.safetensors", "--task-vector", 0.25)
    found = load_file(task["output"])
    assert all(torch.allclose(found[name], x[name]) for name in x)
    parts = answer("a.safetensors", "b.safetensors", "--alpha", 1, "--alpha-of", "vision.0=0")
    found, a, b = load_file(parts["output"]), load_file("a.safetensors"), load_file("b.safetensors")
    for name, tensor in found.items():
        assert torch.equal(tensor, (a if ".resblocks.0." in name else b)[name])


def test_a_folder_of_checkpoints(tmp_path):
    folder = tmp_path / "epochs"
    (folder / "run").mkdir(parents=True)
    (tmp_path / "a.safetensors").rename(folder / "1.safetensors")
    (tmp_path / "b.safetensors").rename(folder / "run" / "model.safetensors")
    result = answer("epochs", "--soup", "uniform")
    assert [parent["path"] for parent in result["parents"]] == ["epochs/1.safetensors", "epochs/run"]
    (tmp_path / "empty").mkdir()
    assert "there are no checkpoints in 'empty'" in refused("empty", "--soup", "uniform")


def test_one_checkpoint_and_the_clip_it_started_from(tmp_path):
    result = answer("adapters.safetensors", "--alpha", 0)
    assert result["parents"][0]["path"] == "the original toy"
    assert "drawn again from seed 3" in result["notes"][0]
    model, plain = load_model(tmp_path / result["output"]), new_model(ModelConfig(backbone=TOY))
    video = torch.randn(1, 2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.video_clip.encode_video(video), plain.video_clip.encode_video(video))
    named = answer("a.safetensors", "--alpha", 0.5, "--backbone", "toy")
    own = answer("a.safetensors", "--alpha", 0.5)
    one, two = load_file(named["output"]), load_file(own["output"])
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_trained_run_goes_back_to_its_own_beginning(monkeypatch):
    monkeypatch.setitem(clips.SPLITS, "train", Split(classes=CLASSES, videos_per_class=1, seed=0))
    args = ["train", *MEASURE, "--epochs", 1, "--batch-size", 4, "--seed", 7, "--output", "run", "--json"]
    trained = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="vactk")
    assert trained.exit_code == 0, trained.stderr
    assert "drawn again from seed 7" in answer("run", "--alpha", 0.5)["notes"][0]


def test_an_openvclip_file_with_its_clip(tmp_path):
    source = new_model(ModelConfig(backbone=TOY))
    state = source.video_clip.backbone.state_dict()
    torch.save({"model_state": {f"model.{n}": t + 0.01 for n, t in state.items()}}, "swa.pth")
    result = answer(
        "swa.pth", "--alpha", 0.5, "--backbone", "toy", "--temporal", "{name: neighbour_attention, window: 2}"
    )
    model = load_model(tmp_path / result["output"])
    assert model.config.temporal == NeighbourAttentionConfig(window=2)
    torch.testing.assert_close(
        model.video_clip.backbone.state_dict()["visual.proj"], state["visual.proj"] + 0.005
    )


def test_a_folder_of_open_clip_is_one_checkpoint():
    exported = ["export", "--backbone", "toy", "--format", "open_clip", "--output", "folder"]
    assert CliRunner().invoke(app, exported, prog_name="vactk").exit_code == 0
    for paths in (["folder", "b.safetensors"], ["b.safetensors", "folder"]):
        result = answer(*paths, "--alpha", 0.5)
        assert [parent["path"] for parent in result["parents"]] == paths
    refused_line = run("folder", "folder", "--alpha", 0.5)
    assert "are the same file" in refused_line.stderr


def test_extrapolation_is_allowed_and_said():
    result = run("a.safetensors", "b.safetensors", "--alpha", 1.5)
    assert result.exit_code == 0
    assert "warning: alpha 1.5 is outside 0 to 1, this extrapolates" in result.stderr


def test_equal_content_and_differing_types_are_said(tmp_path):
    (tmp_path / "c.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
    notes = answer("a.safetensors", "c.safetensors", "--alpha", 0.5)["notes"]
    assert "warning: two of the checkpoints have the same content" in notes
    save_file({"x": torch.ones(3).half()}, "h.safetensors")
    save_file({"x": torch.zeros(3)}, "f.safetensors")
    result = answer("h.safetensors", "f.safetensors", "--alpha", 0.5)
    assert "types differ (float16, float32): the result has the wider one" in result["notes"][0]
    found = load_file(result["output"])["x"]
    assert found.dtype == torch.float32
    assert found.tolist() == [0.5] * 3


def test_files_that_cannot_be_mixed_are_refused_and_nothing_is_written(tmp_path):
    two = ("a.safetensors", "b.safetensors")
    assert "are the same file" in refused("a.safetensors", "a.safetensors", "--alpha", 0.5)
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "a.safetensors")
    assert "are the same file" in refused("a.safetensors", "link.safetensors", "--alpha", 0.5)
    (tmp_path / "link.safetensors").unlink()
    assert "there is no file 'absent'" in refused("a.safetensors", "absent", "--alpha", 0.5)
    assert "is one of the inputs" in refused(*two, "--alpha", 0.5, "--output", "b.safetensors")
    (tmp_path / "there.safetensors").write_text("precious")
    assert "exists; choose another" in refused(*two, "--alpha", 0.5, "--output", "there.safetensors")
    (tmp_path / "there.safetensors").unlink()
    assert "--output must end in .safetensors, got 'x.pt'" in refused(
        *two, "--alpha", 0.5, "--output", "x.pt"
    )
    assert "takes two checkpoints" in refused(*two, "adapters.safetensors", "--alpha", 0.5)
    assert "takes three checkpoints, got 2" in refused(*two, "--task-vector", 1)
    assert "got 3 weights for 2 checkpoints" in refused(*two, "--weights", "1,1,1")
    assert "at least two checkpoints, got 1" in refused("a.safetensors", "--soup", "uniform")
    assert "matches 'vision.99'" in refused(*two, "--alpha", 1, "--alpha-of", "vision.99=0")
    whole = (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(whole[:-100])
    assert "'b.safetensors' is damaged" in refused(*two, "--alpha", 0.5)
    (tmp_path / "b.safetensors").write_bytes(whole)
    tensors = load_file("b.safetensors")
    tensors["clip.visual.proj"][0, 0] = torch.nan
    with safe_open("b.safetensors", framework="pt") as file:
        metadata = file.metadata()
    save_file(tensors, "nan.safetensors", metadata=metadata)
    message = refused("a.safetensors", "nan.safetensors", "--alpha", 0.5)
    assert "'nan.safetensors' holds NaN or infinite values in 'clip.visual.proj'" in message
    save_file({"x": torch.ones(3)}, "x.safetensors")
    save_file({"y": torch.ones(3)}, "y.safetensors")
    message = refused("x.safetensors", "y.safetensors", "--alpha", 0.5)
    assert "only in 'x.safetensors': x; only in 'y.safetensors': y" in message


def test_a_sweep_reads_each_video_once_and_agrees_with_the_files_it_stands_for(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    read = []
    whole = VideoDataset._read
    monkeypatch.setattr(
        VideoDataset, "_read", lambda self, record: read.append(record.video) or whole(self, record)
    )
    result = answer(
        "a.safetensors", "b.safetensors", "--sweep", "0:1:0.5", *MEASURE, "--output", "best.safetensors"
    )
    assert len(read) == len(set(read)) == 16
    assert [point["alpha"] for point in result["points"]] == [0, 0.5, 1]
    assert result["best"]["alpha"] in (0, 0.5, 1)
    assert result["curve"] == ["sweep.png", "sweep.svg"]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "sweep.svg").read_text()
    assert result["output"] == "best.safetensors"
    assert len({point["shapes"]["splits"]["seen"]["top1"] for point in result["points"]}) > 1
    for point in result["points"]:
        mixed = answer("a.safetensors", "b.safetensors", "--alpha", point["alpha"])
        for split in ("seen", "unseen"):
            args = ["zeroshot", *MEASURE, "--split", split, "--checkpoint", mixed["output"], "--json"]
            measured = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="vactk")
            assert json.loads(measured.stdout)["top1"] == point["shapes"]["splits"][split]["top1"]
        assert point["shapes"]["top1"] == point["shapes"]["splits"]["unseen"]["top1"]


def test_a_sweep_as_a_table_and_without_matplotlib(monkeypatch):
    monkeypatch.setattr(pictures, "can_draw", lambda: False)
    result = run(
        "a.safetensors", "--sweep", "0:1:1", *MEASURE, "--split", "seen", "--dataset", "shapes/unseen"
    )
    assert result.exit_code == 0, result.stderr
    assert "alpha 0 is the original toy, 1 is a.safetensors" in result.stdout
    assert "best trade-off: alpha" in result.stdout
    assert "pip install 'vactk[report]'" in result.stderr
    assert "shapes/unseen" in result.stdout


def test_a_greedy_soup_keeps_what_helps():
    result = answer("a.safetensors", "b.safetensors", "adapters.safetensors", "--soup", "greedy", *MEASURE)
    tried = result["soup"]
    assert {item["path"] for item in tried} == {"a.safetensors", "b.safetensors", "adapters.safetensors"}
    assert tried[0]["kept"]
    assert tried[0]["alone"] == max(item["alone"] for item in tried)
    best = tried[0]["soup"]
    for item in tried[1:]:
        assert item["kept"] == (item["soup"] >= best)
        best = item["soup"] if item["kept"] else best
    kept = {item["path"] for item in tried if item["kept"]}
    shares = {parent["path"]: parent["weight"] for parent in result["parents"]}
    assert shares == {path: 1 / len(kept) if path in kept else 0.0 for path in shares}


def test_wrong_datasets_are_named():
    two = ("a.safetensors", "b.safetensors", "--sweep", "0:1:1")
    assert "unknown dataset 'shaeps'" in refused(*two, "--dataset", "shaeps")
    assert "unknown split of shapes 'unsene'" in refused(*two, "--dataset", "shapes/unsene")
    save_file({"x": torch.ones(3)}, "x.safetensors")
    save_file({"x": torch.zeros(3)}, "y.safetensors")
    message = refused("x.safetensors", "y.safetensors", "--sweep", "0:1:1", "--dataset", "shapes")
    assert "plain weights do not say which model they are for" in message


@pytest.mark.parametrize(
    ("text", "alphas"),
    [
        ("0:1:0.1", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        ("0:1:0.4", [0, 0.4, 0.8]),
        ("0.5:0.5:1", [0.5]),
        ("-0.2:0.2:0.2", [-0.2, 0, 0.2]),
    ],
)
def test_sweeps_hold_both_ends(text, alphas):
    assert list(read_sweep(text)) == pytest.approx(alphas)
