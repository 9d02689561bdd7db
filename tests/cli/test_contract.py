"""The contract that every command keeps: exit codes, the form of errors, and what goes to which stream."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import vactk
from vactk.cli import display
from vactk.cli.app import app

COMMANDS = ["train", "finetune", "interpolate", "zeroshot", "report", "retrieve", "export"]
FAILING = {  # a user's error for every command
    "train": ["--dataset", "shaeps"],
    "finetune": ["--dataset", "shaeps"],
    "interpolate": ["a.safetensors", "b.safetensors", "--alpha", "0.5"],
    "zeroshot": ["--dataset", "shaeps"],
    "report": ["no-such-run"],
    "retrieve": ["--query", "juggling"],
    "export": ["--format", "onnx"],
}


def run(*args: str):
    return CliRunner().invoke(app, list(args), prog_name="vactk")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Usage: vactk {command}" in result.stdout
    assert "--json" in result.stdout


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_users_error_is_one_line_on_stderr_and_exit_1(command, json_flag):
    result = run(command, *FAILING[command], *json_flag)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["train", "finetune", "zeroshot", "interpolate"])
def test_usage_errors_are_exit_2(command):
    assert run(command, "--no-such-option").exit_code == 2
    assert run(command, "x", "--frames", "many").exit_code == 2
    assert run(command, "x", "--frames", "0").exit_code == 2


def test_an_unknown_command_is_a_usage_error():
    result = run("trian")
    assert result.exit_code == 2
    assert "train" in result.stderr


def test_version():
    assert run("--version").stdout.strip() == f"vactk {vactk.__version__}"


def test_without_a_command_help_is_shown():
    assert "Usage: vactk" in run().output


def test_python_m_vactk_and_debug_tracebacks():
    command = [sys.executable, "-m", "vactk", "train", "--dataset", "shaeps"]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert plain.returncode == 1
    assert plain.stderr == "Error: unknown dataset 'shaeps'; did you mean 'shapes'?\n"
    environment = {**os.environ, "VACTK_DEBUG": "1"}
    debug = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert debug.returncode == 1
    assert "VactkError" in debug.stderr
    assert "Traceback" in debug.stderr


def test_only_the_first_process_of_a_launch_reports(monkeypatch, capsys):
    for rank, expected in (("0", '{"a": 1}\n'), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        display.print_json({"a": 1})
        display.print_line("done")
        display.Display().message("hello")
        captured = capsys.readouterr()
        assert captured.out == (expected + "done\n" if rank == "0" else "")
        assert captured.err == ("hello\n" if rank == "0" else "")
