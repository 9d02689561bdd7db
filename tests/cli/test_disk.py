"""Disks that are full, folders that cannot be written: every command that writes says so and loses nothing."""

from __future__ import annotations

import contextlib
import resource
import shutil

import pytest
from typer.testing import CliRunner

from vactk.cli.app import app
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split

SPLIT = Split(classes=("star moving left", "key moving up"), videos_per_class=3, seed=4)


@pytest.fixture(scope="module")
def shapes_cache(tmp_path_factory):
    """A few clips, made once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VACTK_CACHE", str(folder))
        for name in ("train", "seen", "unseen"):
            patch.setitem(clips.SPLITS, name, SPLIT)
            clips.load_shapes(name)
    return folder


@pytest.fixture(autouse=True)
def small_world(shapes_cache, monkeypatch, tmp_path):
    for name in ("train", "seen", "unseen"):
        monkeypatch.setitem(clips.SPLITS, name, SPLIT)
    monkeypatch.setenv("VACTK_CACHE", str(shapes_cache))
    monkeypatch.chdir(tmp_path)


@contextlib.contextmanager
def full_disk(limit: int):
    """No file may grow over `limit` bytes: what comes after fails, as on a full disk."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="vactk")


def fails(*args, limit=None):
    """The one line on stderr of a command that ends with 1."""
    with full_disk(limit) if limit is not None else contextlib.nullcontext():
        result = run(*args)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 1, result.output
    assert len(errors) == 1
    assert "Traceback" not in result.stderr
    return errors[0]


TRAIN = [
    "train",
    "--dataset",
    "shapes",
    "--epochs",
    "3",
    "--frames",
    "2",
    "--workers",
    "0",
    "--batch-size",
    "4",
]
FINETUNE = ["finetune", *TRAIN[1:], "average.start_epoch=0"]


@pytest.mark.parametrize("command", [TRAIN, FINETUNE], ids=["train", "finetune"])
@pytest.mark.parametrize("limit", [10, 3000, 100_000])
def test_a_run_on_a_full_disk_ends_with_its_states_and_goes_on_later(tmp_path, command, limit):
    small = [*command, "--output", tmp_path / "run", "--resume"]
    message = fails(*small, limit=limit)
    assert "cannot write" in message
    assert not list((tmp_path / "run").rglob("*.tmp"))
    if limit > 10:
        assert (tmp_path / "run" / "config.yaml").exists()
        finished = run(*small)
        assert finished.exit_code == 0, finished.output
    else:
        assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_state_that_cannot_be_written_leaves_the_ones_before(tmp_path):
    command = [*TRAIN, "--output", tmp_path / "run", "--resume", "run.save_every=0.5"]
    with pytest.MonkeyPatch.context() as patch:
        from vactk.train import run_dir

        real, count = run_dir.torch.save, []

        def save(state, path):
            count.append(path)
            if len(count) > 2:
                with full_disk(1000):
                    real(state, path)
            real(state, path)

        patch.setattr(run_dir.torch, "save", save)
        assert "free some space" in fails(*command)
    kept = sorted((tmp_path / "run" / "states").iterdir())
    assert [path.suffix for path in kept] == [".pt", ".pt"]
    finished = run(*command)
    assert "resuming at step" in finished.stderr
    assert finished.exit_code == 0


@pytest.fixture(scope="module")
def trained(shapes_cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("train", "seen", "unseen"):
            patch.setitem(clips.SPLITS, name, SPLIT)
        patch.setenv("VACTK_CACHE", str(shapes_cache))
        assert run(*TRAIN, "--output", folder).exit_code == 0
    return folder


def test_interpolate_on_a_full_disk(trained, tmp_path):
    target = tmp_path / "mixed.safetensors"
    command = ["interpolate", trained, "--alpha", "0.5", "--output", target]
    assert "cannot write" in fails(*command, limit=10_000)
    assert not target.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_on_a_full_disk(trained, tmp_path):
    pytest.importorskip("matplotlib")
    command = ["interpolate", trained, "--sweep", "0:1:0.5", "--dataset", "shapes", "--frames", "2"]
    command += ["--workers", "0", "--curve", tmp_path / "curve"]
    assert "cannot write" in fails(*command, limit=1000)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder_of_videos(shapes_cache, tmp_path):
    data = tmp_path / "videos"
    made = clips.load_shapes("train")
    for record in made.records:
        folder = data / made.classes[record.label]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(record.video, folder)
    return data


@pytest.mark.parametrize(("workers", "limit"), [("0", 500), ("1", 4100)])
def test_data_convert_on_a_full_disk_goes_on_later(folder_of_videos, tmp_path, workers, limit):
    output = tmp_path / "converted"
    command = ["data", "convert", folder_of_videos, "--output", output, "--workers", workers]
    assert "cannot write" in fails(*command, limit=limit)
    assert not list(output.rglob("*.tmp"))
    assert run(*command).exit_code == 0
    assert len(list(output.rglob("*.mp4"))) == 6


def test_workers_that_cannot_start_are_a_users_error(folder_of_videos, tmp_path, monkeypatch):
    def no_more(self):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.context.ForkProcess.start", no_more)
    command = ["data", "convert", folder_of_videos, "--output", tmp_path / "converted", "--workers", "1"]
    message = fails(*command)
    assert "cannot start a data-loading worker: Resource temporarily unavailable" in message


def test_data_cache_check_and_prepare_on_a_full_disk(folder_of_videos, tmp_path):
    cache = tmp_path / "cache"
    command = ["data", "cache", folder_of_videos, "--output", cache, "--workers", "0", "--short-side", "64"]
    assert "cannot write" in fails(*command, limit=10_000)
    assert list(cache.iterdir()) == []
    report = tmp_path / "report.json"
    report.write_text("before")
    command = ["data", "check", folder_of_videos, "--output", report, "--workers", "0"]
    assert "cannot write" in fails(*command, limit=10)
    assert report.read_text() == "before"


def test_shapes_on_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("VACTK_CACHE", str(tmp_path / "fresh"))
    assert "cannot generate the videos of shapes" in fails(*TRAIN, "--output", tmp_path / "run", limit=3000)
    assert not list((tmp_path / "fresh").rglob("*.mp4"))


@pytest.mark.parametrize("inside", ["run", "run/deeper"])
def test_a_file_in_the_place_of_the_output_folder(tmp_path, inside):
    (tmp_path / "run").write_text("mine")
    assert "run" in fails(*TRAIN, "--output", tmp_path / inside)
    assert (tmp_path / "run").read_text() == "mine"


def denied(*_, **__):
    raise PermissionError(13, "Permission denied", "/data/out")


@pytest.mark.parametrize(
    "command",
    [
        [*TRAIN, "--output", "out/run"],
        ["data", "convert", "videos", "--output", "out/converted", "--workers", "0"],
        ["data", "cache", "videos", "--output", "out/cache", "--workers", "0"],
        ["data", "check", "videos", "--output", "out/report.json", "--workers", "0"],
    ],
    ids=["train", "convert", "cache", "check"],
)
@pytest.mark.usefixtures("folder_of_videos")
def test_a_folder_that_may_not_be_written(command, monkeypatch):
    from pathlib import Path

    monkeypatch.setattr(Path, "mkdir", denied)  # tests may run as root, whom no permission stops
    message = fails(*command)
    assert "Permission denied" in message
    assert "choose a folder that you may write to with --output" in message


def test_any_other_file_error_is_one_line_too(monkeypatch, tmp_path):
    from pathlib import Path

    monkeypatch.setattr(Path, "rglob", denied)
    assert fails("zeroshot", tmp_path, "--labels", "a,b") == "Error: '/data/out': Permission denied"
