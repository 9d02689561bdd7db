"""--processes: one command, several processes, one message for an error, one exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from tests.data import trees
from vactk.cli import processes
from vactk.cli.app import app
from vactk.cli.processes import Ending, Failure
from vactk.errors import RestartError, VactkError


def start(*args, **environment):
    command = [sys.executable, "-m", "vactk", *args]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder of a few clips of two classes."""
    from vactk.data.shapes import clips
    from vactk.data.shapes.clips import Split

    split = Split(classes=("star moving left", "key moving up"), videos_per_class=4, seed=4)
    monkeypatch.setitem(clips.SPLITS, "seen", split)
    return trees.class_folders(clips.load_shapes("seen", root=tmp_path / "made"), tmp_path / "data")


def test_one_json_object_from_several_processes_equal_to_one(tiny):
    command = ["zeroshot", "--dataset", str(tiny), "--split", "all", "--backbone", "toy", "--frames", "2"]
    command += ["--workers", "0", "--json"]
    found = []
    for number in ("1", "2"):
        output, errors = start(*command, "--processes", number).communicate(timeout=120)
        assert "Error" not in errors
        found.append(json.loads(output))
    assert found[0] == found[1]


def test_an_error_of_the_user_is_told_once(tiny):
    done = start(
        "train",
        "--dataset",
        str(tiny),
        "--processes",
        "2",
        "--backbone",
        "toy",
        "run.batch_size=7",
        "run.accumulate=2",
    )
    output, errors = done.communicate(timeout=120)
    assert done.returncode == 1
    assert output == ""
    assert errors == "Error: run: batch_size 7 is not divisible by accumulate=2\n"


def test_ctrl_c_saves_and_the_same_command_goes_on(tiny, tmp_path):
    run = tmp_path / "run"
    command = ["train", "--dataset", str(tiny), "--output", str(run), "--processes", "2", "--resume"]
    command += ["--recipe", "m2clip-shapes", "--workers", "0", "--batch-size", "4", "--frames", "2"]
    running = start(*command, "--epochs", "1000")
    wait_for(lambda: (run / "metrics.jsonl").exists(), running)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert output == ""
    assert errors.count("Interrupted: stopped after step") == 1
    assert "Traceback" not in errors
    assert list((run / "states").glob("step-*.pt"))
    # a process that dies takes the others along, and is named
    running = start(*command, "--epochs", "1000")
    wait_for(lambda: len(json.loads((run / "run.json").read_text())["segments"]) == 2, running)
    children = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(running.pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    peers = [int(line.split()[0]) for line in children.stdout.splitlines() if "spawn_main" in line]
    os.kill(peers[1], signal.SIGKILL)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "Error: process 1 of 2 was killed by SIGKILL; is there enough memory?" in errors
    assert "Traceback" not in errors


def wait_for(condition, process):
    for _ in range(600):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.kill()
    raise AssertionError("it did not come")


@pytest.mark.parametrize(
    ("codes", "heard", "interrupted", "expected"),
    [
        ([0, 0], [], False, Ending(0)),
        ([2, 2], [], False, Ending(2)),
        ([130, 130], [], True, Ending(130)),
        ([0, 0], [], True, Ending(0)),  # it came too late to change anything
        (
            [1, 0],
            [Failure(1, ""), Failure(0, "no room")],
            False,
            Ending(1, Failure(0, "no room")),
        ),
    ],
)
def test_what_several_endings_come_to(codes, heard, interrupted, expected, tmp_path):
    logs = [tmp_path / "0", tmp_path / "1"]
    assert processes._ending(codes, heard, logs, interrupted) == expected


def test_a_crash_shows_the_log_of_its_process(tmp_path, capsys):
    logs = [tmp_path / "0", tmp_path / "1"]
    logs[1].write_text("Traceback ...\nKeyError: 'x'\n")
    ending = processes._ending([1, 1], [Failure(1, "")], logs, False)
    assert ending.failure is not None
    assert "process 1 of 2 failed" in ending.failure.message
    assert "KeyError: 'x'" in capsys.readouterr().err


def test_signals_are_named_and_come_before_lost_connections(tmp_path):
    ending = processes._ending([1, -9], [], [tmp_path / "0", tmp_path / "1"], False)
    assert ending.failure is not None
    assert ending.failure.message.startswith("process 1 of 2 was killed by SIGKILL; is there enough memory?")


def test_a_command_that_can_go_on_is_started_again(monkeypatch, capsys):
    started = []

    def fake(world, command):
        started.append((world, list(command.arguments)))
        return (
            Ending(1, Failure(0, "out of memory", ("run.accumulate=2",))) if len(started) == 1 else Ending(0)
        )

    monkeypatch.setattr(processes, "_launch", fake)
    result = CliRunner().invoke(app, ["train", "--dataset", "shapes", "--processes", "2"])
    assert result.exit_code == 0
    first = ["train", "--dataset", "shapes", "--processes", "2"]
    assert started == [(2, first), (2, [*first, "run.accumulate=2"])]
    assert "out of memory" in result.stderr


def test_a_process_reports_to_the_one_that_started_it(monkeypatch):
    class Queue(list):
        put = list.append

    monkeypatch.setattr(processes, "_failures", Queue())
    monkeypatch.setenv("RANK", "3")
    processes.report(VactkError("no"))
    processes.report(RestartError("more", ("x=1",)))
    assert processes._failures == [Failure(3, "no"), Failure(3, "more", ("x=1",))]


def test_inside_another_launch_the_option_must_agree(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    processes.run_on(None)
    processes.run_on(2)
    with pytest.raises(VactkError, match="this is one of 2 processes of a launch: leave out --processes"):
        processes.run_on(3)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    import torch

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(VactkError, match="--processes 3 needs a GPU per process, this machine has 2"):
        processes.run_on(3)
    assert processes.run_on(1) is None
