from __future__ import annotations

import shutil
from pathlib import Path

import describe_videos as script
import pytest

from tests.examples.conftest import entries, run
from tests.video.conftest import write_video
from vactk.data.annotations.descriptions import read_descriptions
from vactk.data.records import Record, VideoSet
from vactk.data.shapes import clips
from vactk.data.shapes.clips import Split
from vactk.errors import VactkError
from vactk.text.descriptions import match_descriptions

pytest.importorskip("transformers")


def test_without_a_language_model_the_distinct_captions_are_the_descriptions(folder, captioner, tmp_path):
    output = tmp_path / "new" / "out.jsonl"
    result = run(folder, "--output", output, "--captioner", captioner, "--frames", 3, "--max-new-tokens", 6)
    assert result.exit_code == 0, result.stderr
    lines = entries(output)
    assert [line["video"] for line in lines] == ["juggling/yak.mp4", "juggling/zebra.mp4", "waving/zebra.mkv"]
    for line in lines:
        assert line["descriptions"] == line["captions"]
        assert 1 <= len(line["captions"]) <= 3
        assert len({text.lower() for text in line["captions"]}) == len(line["captions"])
        assert line["made_by"]["captioner"] == str(captioner)
        assert line["made_by"]["language_model"] is None
    assert len({line["captions"][0] for line in lines}) > 1, "the tiny captioner does not look at the frames"
    found = read_descriptions(output)
    videos = sorted(folder.rglob("*.m[pk][4v]"))
    matched = match_descriptions(found, [video for video in videos if video.name != ".hidden.mp4"])
    assert not matched.missing
    assert not matched.extra
    assert matched.texts[0] == tuple(lines[0]["descriptions"])


def test_a_run_that_was_killed_goes_on_to_the_same_file(
    folder, captioner, language_model, tmp_path, monkeypatch
):
    wanted = [
        "--captioner",
        captioner,
        "--language-model",
        language_model,
        "--frames",
        2,
        "--max-new-tokens",
        9,
    ]
    whole, parted = tmp_path / "whole.jsonl", tmp_path / "parted.jsonl"
    assert run(folder, "--output", whole, *wanted).exit_code == 0
    content = whole.read_bytes()
    ends = [place for place, byte in enumerate(content) if byte == ord("\n")]
    asked = []
    caption = script.Captioner.caption
    monkeypatch.setattr(
        script.Captioner, "caption", lambda self, frames: asked.append(frames) or caption(self, frames)
    )
    cuts = {0: 3, 4: 3, ends[0]: 3, ends[0] + 1: 2, ends[1] + 30: 1, ends[2]: 1, ends[2] + 1: 0}
    for cut, left in cuts.items():
        parted.write_bytes(content[:cut])
        asked.clear()
        result = run(folder, "--output", parted, *wanted)
        assert result.exit_code == 0, result.stderr
        assert parted.read_bytes() == content
        assert len(asked) == left


def test_ctrl_c_keeps_what_is_finished(folder, captioner, tmp_path, monkeypatch):
    wanted = ["--captioner", captioner, "--frames", 2, "--max-new-tokens", 6]
    caption, calls = script.Captioner.caption, []

    def interrupted(self, frames):
        calls.append(frames)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return caption(self, frames)

    with monkeypatch.context() as patch:
        patch.setattr(script.Captioner, "caption", interrupted)
        result = run(folder, "--output", tmp_path / "out.jsonl", *wanted)
    assert result.exit_code == 130
    assert "the same command goes on" in result.stderr
    assert len(entries(tmp_path / "out.jsonl")) == 2
    assert run(folder, "--output", tmp_path / "out.jsonl", *wanted).exit_code == 0
    run(folder, "--output", tmp_path / "whole.jsonl", *wanted)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_new_videos_are_added(folder, captioner, tmp_path):
    wanted = [
        "--captioner",
        captioner,
        "--frames",
        2,
        "--max-new-tokens",
        6,
        "--output",
        tmp_path / "out.jsonl",
    ]
    run(folder, *wanted)
    shutil.copy(folder / "waving" / "zebra.mkv", folder / "again.mkv")
    result = run(folder, *wanted)
    assert result.exit_code == 0
    lines = entries(tmp_path / "out.jsonl")
    assert [line["video"] for line in lines][3:] == ["again.mkv"]
    assert lines[3]["captions"] == lines[2]["captions"]


def test_videos_that_cannot_be_read_are_listed(folder, captioner, tmp_path):
    wanted = [
        "--captioner",
        captioner,
        "--frames",
        2,
        "--max-new-tokens",
        6,
        "--output",
        tmp_path / "out.jsonl",
    ]
    (folder / "broken.mp4").write_bytes(b"no video")
    cut = write_video(folder / "cut.mp4", num_frames=60, container_options={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 3 // 5])
    result = run(folder, *wanted)
    assert result.exit_code == 0, result.stderr
    assert "broken.mp4': it is text, not a video" in result.stdout
    rows = [" ".join(line.strip("│ ").split("│")).split() for line in result.stdout.splitlines()]
    assert ["described", "4"] in rows
    assert ["failed", "1"] in rows
    assert ["could", "be", "read", "in", "part", "1"] in rows
    assert "cut.mp4' decode" in result.stdout
    assert "broken.mp4" not in read_descriptions(tmp_path / "out.jsonl")
    again = run(folder, *wanted)
    assert "broken.mp4" in again.stdout


def test_nothing_but_broken_videos_is_an_error(captioner, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    result = run(tmp_path, "--output", tmp_path / "out.jsonl", "--captioner", captioner)
    assert result.exit_code == 1
    assert "Error: no video could be described" in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_a_dataset_is_described_by_the_names_that_training_looks_for(captioner, tmp_path, monkeypatch):
    split = Split(classes=("star moving left", "key moving right"), videos_per_class=1, seed=0)
    monkeypatch.setitem(clips.SPLITS, "train", split)
    output = tmp_path / "out.jsonl"
    wanted = ["--dataset", "shapes", "--data-root", tmp_path, "--output", output, "--captioner", captioner]
    result = run(*wanted, "--frames", 2, "--max-new-tokens", 6)
    assert result.exit_code == 0, result.stderr
    videos = [record.video for record in clips.load_shapes("train", root=tmp_path).records]
    matched = match_descriptions(read_descriptions(output), videos)
    assert not matched.missing
    assert not matched.extra


MISTAKES = [
    (["--captioner", "{tmp}/absent"], "there is no folder '{tmp}/absent'"),
    (["--captioner", "someone/absent-blip"], "download it with 'hf download someone/absent-blip'"),
    (["--captioner", "{tmp}/clips"], "transformers finds no image processor in '{tmp}/clips'"),
    (["--captioner", "{gpt}"], "transformers finds no image processor in '{gpt}'"),
    (["--captioner", "{blip}", "--language-model", "{tmp}/absent"], "there is no folder '{tmp}/absent'"),
    (["--captioner", "{blip}", "--max-new-tokens", "96"], "too much for '{blip}': it writes up to 95 tokens"),
    (["--captioner", "{blip}", "--dataset", "shapes"], "give either a folder of videos or a --dataset"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES)
def test_mistakes_are_answered_in_a_line(folder, captioner, language_model, tmp_path, args, message):
    places = {"tmp": tmp_path, "blip": captioner, "gpt": language_model}
    output = tmp_path / "out.jsonl"
    result = run(folder, "--output", output, *(arg.format(**places) for arg in args))
    assert result.exit_code == 1
    assert message.format(**places) in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert not output.exists()


def test_folders_without_videos_or_not_there(captioner, tmp_path):
    for place, message in ((tmp_path, "there are no videos in"), (tmp_path / "absent", "there is no folder")):
        result = run(place, "--output", tmp_path / "out.jsonl", "--captioner", captioner)
        assert result.exit_code == 1
        assert f"{message} '{place}'" in result.stderr


def test_a_file_made_otherwise_is_not_gone_on_with(folder, captioner, tmp_path):
    output = tmp_path / "out.jsonl"
    wanted = ["--output", output, "--captioner", captioner, "--max-new-tokens", 6]
    assert run(folder, *wanted, "--frames", 2).exit_code == 0
    before = output.read_bytes()
    other = shutil.copytree(captioner, tmp_path / "other-blip")
    changes = {
        "frames 2, not 3": [*wanted, "--frames", 3],
        "language_model null, not": [*wanted, "--frames", 2, "--language-model", "someone/model"],
        "captioner": ["--output", output, "--captioner", other, "--max-new-tokens", 6, "--frames", 2],
    }
    for message, args in changes.items():
        result = run(folder, *args)
        assert result.exit_code == 1
        assert f"was made with {message}" in result.stderr
        assert output.read_bytes() == before


@pytest.mark.parametrize("content", ["my own notes", '{"video": "a", "descriptions": ["b"]}\n', "[]\n", "\n"])
def test_a_file_of_another_kind_is_left_alone(folder, captioner, tmp_path, content):
    output = tmp_path / "out.jsonl"
    output.write_text(content)
    result = run(folder, "--output", output, "--captioner", captioner)
    assert result.exit_code == 1
    assert "line 1" in result.stderr
    assert "was not written by this script: choose another --output" in result.stderr
    assert output.read_text() == content


def test_captions_that_differ_in_case_spaces_or_full_stop_are_the_same():
    given = ["A dog  runs.", "a dog runs", " ", "", ".", "a cat\nsits", "A DOG RUNS ."]
    assert script.distinct(given) == ["A dog runs.", "a cat sits"]


def test_without_transformers_the_extra_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)
    result = run(folder, "--output", tmp_path / "out.jsonl", "--captioner", "x/y")
    assert result.exit_code == 1
    assert "pip install 'vactk[describe]'" in result.stderr


def test_a_dataset_of_parts_of_videos_is_refused():
    whole = Record(video=Path("/data/a/one.mp4")), Record(video=Path("/data/b/one.mp4"))
    about = {"name": "mine", "split": "train", "classes": (), "words": ()}
    found = script.dataset_videos(VideoSet(**about, records=whole))
    assert found == {"a/one.mp4": whole[0].video, "b/one.mp4": whole[1].video}
    part = Record(video=Path("/data/a/one.mp4"), start_s=2.0)
    with pytest.raises(VactkError, match="mine is made of parts of videos"):
        script.dataset_videos(VideoSet(**about, records=(*whole, part)))
