"""Ctrl-C, SIGTERM and SIGKILL while commands wait for videos whose decoding hangs."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.data import trees
from tests.hanging import WITHIN_S, hanging, is_alive, seconds_until_end, started, wait_until
from vactk import __main__ as entry
from vactk.checkpoints.checkpoint import save_model
from vactk.cli import processes
from vactk.cli.app import app
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split
from vactk.models.backbone import BackboneConfig
from vactk.models.video_model import ModelConfig, new_model

TRAIN = "--dataset clips --output run --recipe m2clip-shapes --frames 2 --batch-size 4 --workers 1"
COMMANDS = {
    "train": f"train {TRAIN}",
    "finetune": f"finetune {TRAIN}",
    "zeroshot": "zeroshot --dataset clips --split all --backbone toy --frames 2 --workers 1",
    "retrieve": "retrieve --index index --add clips --backbone toy --workers 1",
    "interpolate": "interpolate a.safetensors b.safetensors --sweep 0:1:0.5 --dataset clips --workers 1",
    "check": "data check clips --workers 1",
    "convert": "data convert clips --output small --workers 1",
    "cache": "data cache clips --output cached --workers 1",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Eight clips of two classes, and two checkpoints."""
    folder = tmp_path_factory.mktemp("made")
    split = Split(classes=("star moving left", "key moving up"), videos_per_class=4, seed=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(clips.SPLITS, "seen", split)
        videos = clips.load_shapes("seen", root=folder / "shapes")
    trees.class_folders(videos, folder / "clips")
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = new_model(ModelConfig(backbone=BackboneConfig(name="toy")))
        save_model(folder / f"{name}.safetensors", model, towers=("vision",), info={"recipe": {}})
    return folder


@pytest.fixture(autouse=True)
def _here(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("VACTK_CONFIG", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("VACTK_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [(command, signal.SIGINT, 130) for command in COMMANDS]
    + [("train", signal.SIGTERM, 130), ("zeroshot", signal.SIGTERM, -signal.SIGTERM)],
)
def test_a_command_that_waits_for_a_video_ends_with_its_workers(command, number, code, tmp_path):
    words = COMMANDS[command].split()
    with started(lambda: app(words, prog_name="vactk"), tmp_path / "hangs") as process:
        workers = hanging(tmp_path / "hangs")
        assert seconds_until_end(process, number) < WITHIN_S
    said = (tmp_path / "hangs.log").read_text()
    assert process.exitcode == code, said
    assert "Traceback" not in said
    assert ("Interrupted" in said) == (code == 130)
    wait_until(lambda: not any(map(is_alive, workers)), WITHIN_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_processes_of_a_launch_end_with_it_and_their_workers_too(number, tmp_path):
    command = [*COMMANDS["train"].split(), "--processes", "2"]
    with started(lambda: app(command, prog_name="vactk"), tmp_path / "hangs", healthy=2) as process:
        workers = hanging(tmp_path / "hangs", 2)
        wait_until((tmp_path / "work/run/metrics.jsonl").exists)  # of the one step that could be done
        parents = {parent_of(worker) for worker in workers}
        assert {parent_of(parent) for parent in parents} == {process.pid}
        assert seconds_until_end(process, number) < WITHIN_S
    wait_until(lambda: not any(map(is_alive, [*workers, *parents])), WITHIN_S)
    if number == signal.SIGINT:
        said = (tmp_path / "hangs.log").read_text()
        assert process.exitcode == 130, said
        assert (
            said.count("Interrupted: stopped after step 1; continue with the same command and --resume") == 1
        )
        assert (tmp_path / "work/run/states/step-000000001.pt").exists()


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_process_that_does_not_hear_is_ended_once_another_was_interrupted():
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def deaf():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ready.set()
        time.sleep(60)

    children = [context.Process(target=deaf), context.Process(target=lambda: os._exit(processes.INTERRUPTED))]
    for child in children:
        child.start()
    ready.wait()
    started_s = time.monotonic()
    codes, heard = processes._wait(children, context.SimpleQueue(), [signal.SIGINT])
    assert time.monotonic() - started_s < WITHIN_S
    assert processes._ending(codes, heard, [], True) == processes.Ending(processes.INTERRUPTED)


def test_processes_of_torchrun_end_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(
        "vactk.cli.app.app", lambda arguments, prog_name: [(tmp_path / "runs").touch(), time.sleep(60)]
    )
    pids = multiprocessing.get_context("fork").SimpleQueue()

    def torchrun():
        child = multiprocessing.get_context("fork").Process(target=entry.main)
        child.start()
        pids.put(child.pid)
        child.join()

    with started(torchrun, tmp_path / "hangs"):  # killed at its end
        child = pids.get()
        wait_until((tmp_path / "runs").exists)
    wait_until(lambda: not is_alive(child), WITHIN_S)
