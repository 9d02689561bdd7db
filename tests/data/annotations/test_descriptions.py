from __future__ import annotations

import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vactk.data.annotations.descriptions import read_descriptions
from vactk.errors import VactkError


def write(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def test_lines_of_one_video_add_up_and_spaces_are_one(tmp_path):
    path = write(
        tmp_path / "texts.jsonl",
        {"video": "a.mp4", "descriptions": ["a  man\n runs "], "captions": ["kept apart"]},
        {"video": "b.mp4", "descriptions": []},
        {"video": "a.mp4", "descriptions": ["he stops", "he sits"]},
    )
    assert read_descriptions(path) == {"a.mp4": ("a man runs", "he stops", "he sits"), "b.mp4": ()}


@given(text=st.text(min_size=1).filter(str.strip))
def test_any_text_comes_back_in_its_words(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "texts.jsonl"
    line = json.dumps({"video": "a.mp4", "descriptions": [text]}, ensure_ascii=not text.isprintable())
    path.write_text(line, encoding="utf-8")
    assert read_descriptions(path) == {"a.mp4": (" ".join(text.split()),)}


def test_other_ends_of_lines_within_a_text_and_windows_files_are_read(tmp_path):
    path = tmp_path / "texts.jsonl"
    lines = (
        '{"video": "a.mp4", "descriptions": ["a man\u2028runs\x85on"]}',
        "",
        '{"video": "b", "descriptions": ["c"]}',
    )
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert read_descriptions(path) == {"a.mp4": ("a man runs on",), "b": ("c",)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video": "a.mp4", "descri', r"line 2 of '.*texts.jsonl' is not .*Unterminated string"),
        ("[1, 2]", "line 2 .* is not "),
        ("3", "line 2 .* is not "),
        ('{"descriptions": ["a"]}', "line 2 .* is not .*'video'"),
        ('{"video": "a.mp4"}', "line 2 .* is not .*'descriptions'"),
        ('{"video": 3, "descriptions": ["a"]}', "line 2 .* must be a list of texts"),
        ('{"video": "a.mp4", "descriptions": "a"}', "line 2 .* must be a list of texts"),
        ('{"video": "a.mp4", "descriptions": [3]}', "line 2 .* must be a list of texts"),
        ('{"video": "a.mp4", "descriptions": ["a", " "]}', "line 2 .* must be a list of texts"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = write(tmp_path / "texts.jsonl", {"video": "b.mp4", "descriptions": ["fine"]})
    path.write_text(path.read_text() + line)
    with pytest.raises(VactkError, match=message):
        read_descriptions(path)


def test_files_that_cannot_be_read_or_say_nothing(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"video": "\xe9"}')
    for name in ("absent.jsonl", "latin.jsonl", "."):
        with pytest.raises(VactkError, match="cannot read descriptions from"):
            read_descriptions(tmp_path / name)
    (tmp_path / "empty.jsonl").write_text("\n")
    for path in (
        tmp_path / "empty.jsonl",
        write(tmp_path / "none.jsonl", {"video": "a", "descriptions": []}),
    ):
        with pytest.raises(VactkError, match="holds no descriptions"):
            read_descriptions(path)


@pytest.mark.parametrize("header", ["video,description", "path,caption,label", "video_id;text"])
def test_tables_have_a_row_for_each_text(tmp_path, header):
    path = tmp_path / "texts.csv"
    more = ",x" if header.endswith("label") else ""
    lines = [header, f'a.mp4,"a man runs, fast"{more}', f"b.mp4,{more}", f"a.mp4,he stops{more}"]
    path.write_text("\n".join(lines).replace(".mp4,", ".mp4;") if ";" in header else "\n".join(lines))
    assert read_descriptions(path) == {"a.mp4": ("a man runs, fast", "he stops"), "b.mp4": ()}


def test_a_table_without_texts_says_what_its_first_line_must_name(tmp_path):
    path = tmp_path / "texts.csv"
    for text in ("a.mp4,a man runs\n", "video,label\na.mp4,run\n", "video,description\na.mp4,\n"):
        path.write_text(text)
        with pytest.raises(
            VactkError, match=r"holds no descriptions: its first line must name .* video,description"
        ):
            read_descriptions(path)


@pytest.mark.parametrize("old_format", [False, True])
def test_a_dictionary_saved_by_torch(tmp_path, old_format):
    path = tmp_path / "texts.pt"
    content = {"a.mp4": "a  man runs", "b": ["he stops", "he sits"], "c": []}
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    assert read_descriptions(path) == {"a.mp4": ("a man runs",), "b": ("he stops", "he sits"), "c": ()}


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (["a"], "holds a list of 1; expected a dictionary"),
        (torch.zeros(2, 3), r"holds a Tensor of shape \(2, 3\); expected"),
        ({"a": torch.zeros(4)}, r"a dictionary of 1 entries, and under 'a' a Tensor of shape \(4,\)"),
        ({"captions": {"a": "x"}}, "and under 'captions' a dictionary with keys such as 'a'"),
        ({"a": "x", "b": ["y", 3]}, "a dictionary of 2 entries, and under 'b' a list with a int"),
        ({"a": "x", "b": " "}, "under 'b' an empty text"),
        ({3: "x"}, "under 3 a text"),
        ({"a": Harmful()}, r"it refers to '\w+\.mkdir', which could be code; expected"),
        ({}, "holds no descriptions"),
    ],
)
def test_what_else_torch_saved_is_told_and_never_run(tmp_path, monkeypatch, content, found):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "texts.pt")
    with pytest.raises(VactkError, match=found):
        read_descriptions(tmp_path / "texts.pt")
    assert not (tmp_path / "harmed").exists()


def test_damaged_files_of_torch_and_enormous_texts_are_refused(tmp_path):
    path = tmp_path / "texts.pt"
    torch.save({"a": "x"}, path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(VactkError, match=r"cannot read descriptions from '.*texts.pt': "):
        read_descriptions(path)
    torch.save({"a": "x" * 100_001}, path)
    with pytest.raises(
        VactkError, match="describes 'a' with 100,001 characters; at most 100,000 are allowed"
    ):
        read_descriptions(path)
