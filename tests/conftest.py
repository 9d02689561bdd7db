"""Options that point the tests at real data; what needs it is skipped where it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

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
