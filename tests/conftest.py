"""Options that point the tests at real data; what needs it is skipped where it is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported: a process that is forked once OpenMP has made threads may wait for these for ever, and
# pytest-xdist gives every core a process of its own.
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", type=Path, default=ROOT / "../shared/data", help="folder with expected.json")
    parser.addoption(
        "--reference", type=Path, default=ROOT / "../shared/reference", help="folder of reference tensors"
    )


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of real annotation files and videos."""
    folder: Path = request.config.getoption("--data")
    if not (folder / "expected.json").is_file():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def reference(request: pytest.FixtureRequest) -> Path:
    """The folder of reference tensors."""
    folder: Path = request.config.getoption("--reference")
    if not (folder / "index.json").is_file():
        pytest.skip(f"no reference tensors at {folder}")
    return folder
