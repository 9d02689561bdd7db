from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT = (
    "import vactk.torchvision_ops; import torchvision; from torchvision.transforms import v2; import torch; "
)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_torchvision_can_be_imported_after_it():
    done = run(IMPORT + "assert torch.ops.torchvision.nms and torch.ops.torchvision.qnms")
    assert done.returncode == 0, done.stderr


def test_where_the_extension_loads_nothing_is_declared():
    code = "import vactk.torchvision_ops as ops; print(ops._extension_loads(), ops._LIBRARY is None)"
    done = run(code)
    assert done.stdout.split() in (["True", "True"], ["False", "False"]), done.stderr


def test_without_it_the_import_fails_on_machines_that_need_it():
    if run("import torchvision").returncode == 0:
        pytest.skip("this machine's torchvision fits its torch")
    assert "torchvision::nms" in run("import torchvision").stderr


def test_accelerates_launcher_starts_beside_any_torch():
    command = [sys.executable, "-m", "vactk.launch", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--config_file" in done.stdout
