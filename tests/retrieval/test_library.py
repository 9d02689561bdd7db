"""The library's index finds what `vactk retrieve` finds."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import vactk
from vactk.cli.app import app
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split


def run(*arguments):
    result = CliRunner().invoke(app, ["retrieve", *map(str, arguments), "--workers", "0", "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def index(monkeypatch, tmp_path):
    split = Split(classes=("star moving left", "key moving right"), videos_per_class=2, seed=2)
    monkeypatch.setitem(clips.SPLITS, "unseen", split)
    folder = clips.load_shapes("unseen", root=tmp_path).records[0].video.parent
    run("--index", tmp_path / "index", "--add", folder, "--backbone", "toy")
    return tmp_path / "index"


def test_hits_are_those_of_the_command(index):
    own = vactk.Index.open(index)
    assert len(own) == 4
    hits = own.search("a star", top=3)
    printed = run("--index", index, "--query", "a star", "--top", 3)["hits"]
    assert [hit.to_json() for hit in hits] == printed
    like = own.search_video(hits[0].video, top=2)
    assert [hit.to_json() for hit in like] == run("--index", index, "--like", hits[0].video, "--top", 2)[
        "hits"
    ]
    assert hits[0].video not in [hit.video for hit in like]
    assert [hit.video for hit in own.search("a star", path=hits[1].video.name)] == [hits[1].video]


def test_a_loaded_model_opens_its_index_and_no_other(index):
    hits = vactk.Index.open(index, model=vactk.load_model("toy")).search("a star")
    assert [hit.score for hit in hits] == [hit.score for hit in vactk.Index.open(index).search("a star")]
    other = vactk.load_model("toy")
    other.video_clip.backbone.visual.proj.data.add_(0.1)
    with pytest.raises(vactk.VactkError, match="was made with another model, 'toy'"):
        vactk.Index.open(index, model=other)


def test_wrong_questions_are_named(index, tmp_path):
    with pytest.raises(vactk.VactkError, match="there is no index in"):
        vactk.Index.open(tmp_path / "absent")
    own = vactk.Index.open(index)
    for query, message in ((3, "a query is text, got int"), ("  ", "the query is empty")):
        with pytest.raises(vactk.VactkError, match=message):
            own.search(query)
    with pytest.raises(vactk.VactkError, match="--top must be at least 1, got 0"):
        own.search("a", top=0)
