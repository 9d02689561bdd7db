from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.structure import read_package

ROOT = Path(__file__).parents[1]
SOURCES = [*ROOT.glob("vactk/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("examples/**/*.py")]


def test_imports_go_down_only_and_open_clip_and_decord_are_met_once():
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def opens_media(node: ast.AST) -> bool:
    """Whether it is a call of, or a name for, what makes FFmpeg open a file."""
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] == "av" and any(one.name == "open" for one in node.names)
    return isinstance(node, ast.Attribute) and ast.unparse(node) in {"av.open", "av.container.open"}


def test_ffmpeg_gets_files_in_one_place():
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("vactk/**/*.py")
        if any(opens_media(node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert found == {"vactk/video/container.py"}


def test_towers_are_taken_apart_where_they_are_described():
    known = {"vactk.models.attention", "vactk.models.text_tower", "vactk.models.vision_tower"}
    assert {name for name, module in read_package(ROOT).items() if module.names_a_tower()} == known


def test_the_top_level_holds_what_it_should():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    if listed == [""]:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in listed if name}
    allowed = {"pyproject.toml", "README.md", "LICENSE", "vactk", "tests", "examples"}
    assert {name for name in top if not name.startswith(".")} <= allowed


def test_the_command_line_imports_nothing_heavy():
    code = (
        "import sys, vactk.__main__; "
        "heavy = {'torch', 'torchvision', 'open_clip', 'accelerate', 'numpy', 'av', 'decord'}; "
        "sys.exit(', '.join(sorted(heavy & sys.modules.keys())) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
