"""`vactk retrieve` as it is typed."""

from __future__ import annotations

import json
import shutil
import socket
import sys

import pytest
from typer.testing import CliRunner

from tests.data import trees
from tests.retrieval.test_kills import content
from tests.tracing import states
from tests.video.conftest import write_video
from vactk.cli.app import app
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split

CLASSES = ("star moving left", "key moving right", "tree moving up")


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch, tmp_path):
    split = Split(classes=CLASSES, videos_per_class=2, seed=3, unique_captions=True)
    monkeypatch.setitem(clips.SPLITS, "retrieval", split)
    monkeypatch.setenv("VACTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VACTK_CONFIG", str(tmp_path / "no-config.yaml"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """Six clips in folders by their shape, and a text."""
    folder = tmp_path / "clips"
    for record in clips.load_shapes("retrieval").records:
        shape = record.video.name.split("_")[0]
        (folder / shape).mkdir(parents=True, exist_ok=True)
        shutil.copy(record.video, folder / shape)
    (folder / "notes.txt").write_text("not a video")
    return folder


def run(*args, **options):
    return CliRunner().invoke(app, ["retrieve", *map(str, args)], prog_name="vactk", **options)


def answer(*args):
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def fails(*args):
    result = run(*args)
    assert result.exit_code == 1, result.stdout
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def index(folder, tmp_path):
    """An index of the folder."""
    index = tmp_path / "index"
    answer("--index", index, "--add", folder, "--backbone", "toy", "--workers", 0)
    return index


@pytest.fixture(scope="module")
def lasting_index(tmp_path_factory):
    """An index of one video that no test changes."""
    folder = tmp_path_factory.mktemp("lasting")
    (folder / "clips").mkdir()
    write_video(folder / "clips" / "one.mp4")
    options = ("--index", folder / "index", "--add", folder / "clips", "--backbone", "toy", "--workers", 0)
    answer(*options)
    return folder / "index"


def test_a_folder_is_indexed_and_searched_by_text_alone(folder, tmp_path):
    index = tmp_path / "index"
    made = answer("--index", index, "--add", folder, "--backbone", "toy", "--workers", 0)
    assert (made["videos"], made["entries"], made["added"], made["failed"]) == (6, 6, 6, [])
    again = answer("--index", index, "--add", folder, "--workers", 0)
    assert (again["added"], again["unchanged"]) == (0, 6)
    found = answer("--index", index, "--query", "a star", "--top", 2)
    assert found["query"] == "a star"
    assert [hit["rank"] for hit in found["hits"]] == [1, 2]
    assert all(hit["label"] == "star" for hit in found["hits"])
    assert {"rank", "score", "video", "start_s", "end_s"} <= found["hits"][0].keys()
    assert found["hits"][0]["score"] >= found["hits"][1]["score"]
    assert found["latency_ms"] > 0


def test_tables_for_people(index):
    shown = run("--index", index, "--query", "a key", "--top", 1)
    assert shown.exit_code == 0, shown.stderr
    assert '"a key"' in shown.stdout
    assert "exact search" in shown.stdout
    assert "6 videos" in shown.stdout
    about = run("--index", index)
    assert about.exit_code == 0
    assert "videos" in about.stdout
    assert "exact" in about.stdout
    none = run("--index", index, "--query", "a key", "--path", "nothing")
    assert "no hits" in none.stdout
    assert "unknown label of this index 'nothing'; choose from" in fails(
        "--index", index, "--query", "a key", "--label", "nothing"
    )


def test_several_queries_from_options_a_file_and_videos(index, folder, tmp_path):
    lines = tmp_path / "queries.txt"
    lines.write_text("a tree\n\n  a key \n")
    video = next((folder / "tree").iterdir())
    found = answer("--index", index, "--query", "a star", "--query-file", lines, "--like", video, "--top", 1)
    asked = [result.get("query") or result["like"] for result in found["results"]]
    assert asked == ["a star", "a tree", "a key", str(video)]
    labels = [result["hits"][0]["label"] for result in found["results"]]
    assert labels == ["star", "tree", "key", "tree"]
    assert found["results"][3]["hits"][0]["video"] != str(video)


def test_hits_as_a_picture_and_as_clips(index, tmp_path):
    files = ("--sheet", "hits.png", "--cut", "cut")
    found = answer("--index", index, "--query", "a star", "--query", "a key", "--top", 2, *files)
    assert found["sheet"] == "hits.png"
    assert (tmp_path / "hits.png").read_bytes()[:4] == b"\x89PNG"
    assert len(found["clips"]) == 4
    assert {path.split("/")[1] for path in found["clips"]} == {"01_a_star", "02_a_key"}
    (tmp_path / "clips" / "star").rename(tmp_path / "elsewhere")
    shown = run("--index", index, "--query", "a star", "--top", 3, "--cut", "more")
    assert shown.exit_code == 0
    assert shown.stderr.count("no such file") == 2
    assert shown.stdout.count("clip: more/") == 1


def test_windows_and_filters(folder, tmp_path):
    index = tmp_path / "index"
    options = ("--window", 0.5, "--stride", 0.25, "--backbone", "toy", "--workers", 0)
    made = answer("--index", index, "--add", folder, *options)
    assert made["entries"] == 6 * 3
    found = answer("--index", index, "--query", "a star", "--path", "*key*", "--per-video", 1)
    assert len(found["hits"]) == 2
    assert all("key" in hit["video"] and hit["end_s"] - hit["start_s"] == 0.5 for hit in found["hits"])
    every = answer("--index", index, "--query", "a star", "--label", "STAR")
    assert {hit["label"] for hit in every["hits"]} == {"star"}
    most = every["hits"][0]["score"]
    assert len(answer("--index", index, "--query", "a star", "--min-score", most)["hits"]) == 1
    assert "made with other frames, views or windows" in fails(
        "--index", index, "--add", folder, "--window", 2
    )


def test_the_index_of_a_dataset_is_built_once_asked(monkeypatch):
    question = fails("--dataset", "shapes", "--query", "a star", "--workers", 0)
    assert "read its 6 videos now?" in question
    assert "--yes" in question
    found = answer("--dataset", "shapes", "--query", "a star", "--top", 1, "--workers", 0, "--yes")
    assert found["hits"][0]["label"] == "star moving left"
    monkeypatch.setattr("vactk.evaluate.windows.embed_views", None)  # nothing is read again
    again = answer("--dataset", "shapes", "--query", "a star", "--top", 1, "--workers", 0)
    assert again["hits"] == found["hits"]


def test_msrvtt_is_the_default_and_where_it_is_not_the_error_says_what_to_do():
    said = fails("--query", "juggling")
    assert "msrvtt was not found" in said
    assert "--add FOLDER" in said
    assert "--dataset shapes" in said


def test_msrvtt_is_searched_and_measured_where_it_is_configured(tmp_path, monkeypatch):
    trees.msrvtt(tmp_path / "data", trees.tiny_video)
    monkeypatch.setenv("VACTK_DATA_MSRVTT", str(tmp_path / "data"))
    found = answer("--query", "juggling", "--backbone", "toy", "--yes", "--workers", 0)
    assert [hit["video"].split("/")[-1] for hit in found["hits"]] == ["video3.mp4"]
    assert found["query"] == "juggling"
    every = answer("--query", "juggling", "--backbone", "toy", "--yes", "--workers", 0, "--split", "full")
    assert len(every["hits"]) == 4
    measured = answer("--evaluate", "--protocol", "msrvtt/1k-a", "--backbone", "toy", "--workers", 0)
    assert measured["protocol"] == "msrvtt/1k-a"
    assert (measured["num_videos"], measured["num_texts"]) == (1, 1)
    assert measured["t2v"].keys() == {"R@1", "R@5", "R@10", "MdR", "MnR", "queries"}
    assert any("published: 1,000" in note for note in measured["notes"])
    full = answer("--evaluate", "--dataset", "msrvtt", "--split", "full", "--backbone", "toy", "--workers", 0)
    assert (full["num_videos"], full["num_texts"]) == (4, 12)


def test_retrieval_is_measured_on_captions(tmp_path):
    plain = answer("--evaluate", "--dataset", "shapes", "--workers", 0)
    assert (plain["protocol"], plain["num_texts"], plain["dual_softmax"]) == ("shapes/retrieval", 6, False)
    assert plain["t2v"]["R@10"] == 100
    dual = run("--evaluate", "--dataset", "shapes", "--dual-softmax", "--workers", 0)
    assert dual.exit_code == 0, dual.stderr
    assert "dual softmax over all" in dual.stdout
    assert "median rank" in dual.stdout


def test_a_trained_checkpoint_makes_an_index_that_remembers_it(folder, tmp_path):
    trained = CliRunner().invoke(
        app,
        ["train", "--dataset", str(folder), "--recipe", "m2clip-shapes", "--output", str(tmp_path / "run"),
         "--epochs", "1", "--batch-size", "2", "--workers", "0", "--device", "cpu", "--json"],
        prog_name="vactk",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.stderr
    index = tmp_path / "index"
    answer("--index", index, "--add", folder, "--checkpoint", tmp_path / "run", "--workers", 0)
    found = answer("--index", index, "--query", "a star")
    assert found["model"]["checkpoint"] == str(tmp_path / "run")
    assert "made with another model" in fails("--index", index, "--query", "a star", "--backbone", "toy")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert "no longer exists" in fails("--index", index, "--query", "a star")
    moved = answer("--index", index, "--query", "a star", "--checkpoint", tmp_path / "moved")
    assert moved["hits"] == found["hits"]


def test_a_file_that_vanished_since_is_dropped_when_the_folder_is_added_again(index, folder):
    gone = sorted((folder / "star").iterdir())[0]
    gone.unlink()
    found = answer("--index", index, "--query", "a star", "--top", 6)
    assert len(found["hits"]) == 6  # the index does not look at the files
    change = answer("--index", index, "--add", folder, "--workers", 0)
    assert (change["dropped"], change["videos"]) == (1, 5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "nothing to do: give --query TEXT"),
        (["--index", "nowhere", "--query", "x"], "there is no index in 'nowhere'"),
        (["--index", "nowhere", "--add", "no-folder"], "nor is there a folder or a list 'no-folder'"),
        (["--index", "i", "--add", "empty", "--backbone", "toy"], "no videos in 'empty'"),
        (["--add", "clips"], "--add requires --index FOLDER"),
        (["--index", "INDEX", "--query", " "], "the query is empty"),
        (["--index", "INDEX", "--query", "x" * 10_001], "10,001 characters"),
        (["--index", "INDEX", "--query-file", "none.txt"], "cannot read queries from 'none.txt'"),
        (["--index", "INDEX", "--query-file", "blank.txt"], "'blank.txt' holds no queries"),
        (["--index", "INDEX", "--like", "none.mp4"], "none.mp4"),
        (["--index", "INDEX", "--sheet", "x.png"], "--sheet and --cut require --query or --like"),
        (["--index", "INDEX", "--query", "x", "--sheet", "x.gif"], "image format for --sheet"),
        (["--index", "INDEX", "--query", "x", "--sheet", "blank.png"], "'blank.png' exists"),
        (["--index", "INDEX", "--query", "x", "--cut", "blank.txt"], "'blank.txt' is a file"),
        (["--index", "INDEX", "--serve", "--port", "TAKEN"], "choose another --port"),
        (["--index", "INDEX", "--query", "x", "--dataset", "shapes"], "use --add NAME"),
        (
            ["--index", "INDEX", "--query", "x", "--protocol", "msrvtt/1k-a"],
            "--protocol requires --evaluate",
        ),
        (["--index", "INDEX", "--query", "x", "--dual-softmax"], "--dual-softmax requires --evaluate"),
        (["--index", "INDEX", "--evaluate"], "--evaluate uses no index"),
        (["--evaluate", "--protocol", "msrvtt/1k"], "did you mean 'msrvtt/1k-a'"),
        (["--evaluate", "--protocol", "hmdb51/ep2"], "is not a retrieval protocol"),
        (["--evaluate", "--protocol", "msrvtt/1k-a", "--split", "test"], "remove --dataset and --split"),
        (["--evaluate", "--dataset", "empty"], "empty"),
        (["--index", "clips", "--add", "clips", "--backbone", "toy"], "not empty and no index"),
        (["--index", "INDEX", "--query", "x", "--store", "redis:x"], "unknown --store 'redis:x'"),
        (
            ["--index", "INDEX", "--query", "x", "--templates", "no {braces} here"],
            "a template needs exactly one {}",
        ),
    ],
)
def test_mistakes_are_named(args, message, lasting_index, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "clips").mkdir()
    shutil.copy(lasting_index.parent / "clips" / "one.mp4", tmp_path / "clips")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "blank.png").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        known = {"INDEX": str(lasting_index), "TAKEN": str(taken.getsockname()[1])}
        assert message in fails(*[known.get(arg, arg) for arg in args])


def test_when_no_file_can_be_read_the_command_fails(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.mp4").write_bytes(b"not a video")
    said = fails("--index", "index", "--add", "bad", "--backbone", "toy", "--workers", 0)
    assert "none of the videos could be read" in said
    assert "x.mp4" in said


@pytest.mark.skipif(sys.platform != "linux", reason="processes are traced as Linux does it")
def test_a_killed_command_goes_on_to_the_same_index(index, folder, tmp_path):
    killed = tmp_path / "killed"
    command = ("--index", killed, "--add", folder, "--backbone", "toy", "--workers", 0)
    for step in (5, 20, 40):
        for number, _ in enumerate(states(lambda: answer(*command), killed)):
            if number == step:
                break  # SIGKILL
        else:
            pytest.fail(f"it ended before its step {step}")
    answer(*command)
    assert content(killed) == content(index)
