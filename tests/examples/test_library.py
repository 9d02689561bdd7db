"""The README's library section runs as typed, and so does the notebook."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vactk
from vactk.cli.app import app
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch, tmp_path):
    classes = (clips.SPLITS["unseen"].classes[0], clips.SPLITS["unseen"].classes[-1])
    monkeypatch.setitem(clips.SPLITS, "unseen", Split(classes=classes, videos_per_class=2, seed=2))
    monkeypatch.setenv("VACTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(code: str, names: dict) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


def test_the_readme_section_runs(tmp_path):
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Library")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], flags=re.S)
    records = clips.load_shapes("unseen").records
    for name, record in (("clip.mp4", records[0]), ("other.mp4", records[-1]), ("long.mp4", records[0])):
        Path(name).write_bytes(record.video.read_bytes())
    Path("broken.mp4").write_text("not a video")
    Path("runs/first").mkdir(parents=True)
    model = vactk.load_model("toy", device="cpu", settings={"data.workers": 0})
    vactk.save_model(model, "runs/first/model.safetensors")
    arguments = ["retrieve", "--index", "my-index", "--add", str(records[0].video.parent)]
    assert CliRunner().invoke(app, [*arguments, "--checkpoint", "runs/first"]).exit_code == 0
    lines = run(code, {}).splitlines()
    assert [line.split()[0] for line in lines if line.endswith(tuple("0123456789"))][:2] == [
        "clip.mp4",
        "other.mp4",
    ]
    assert sum("cannot read video 'broken.mp4'" in line for line in lines) == 1
    assert sum(".mp4 0.0-1.0 s" in line for line in lines) == len(records)
    assert vactk.load_model("mine.safetensors").embed_text("a key").shape == (1, 64)


def test_the_notebook_runs_and_prints_what_it_shows():
    notebook = json.loads((ROOT / "examples/library.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict = {}
    for cell in cells:
        shown = "".join(line for output in cell["outputs"] for line in output["text"])
        printed = run("".join(cell["source"]), names)
        for line, expected in zip(printed.splitlines(), shown.splitlines(), strict=True):
            assert without_numbers(line) == without_numbers(expected)
    assert len(cells) >= 5


def without_numbers(line: str) -> str:
    """The numbers depend on the processor in their last digits, and names of clips on their count."""
    return re.sub(r"[0-9.]+", "#", line)
