from __future__ import annotations

import json

import pytest

from vactk.data.annotations.entries import AnnotationEntry, bare_name
from vactk.data.annotations.lists import read_list
from vactk.errors import VactkError


def entries(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return read_list(path).entries


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'path,label\nx/1.mp4,run\nx/2.mp4,"jump, high"\n'),
        ("a.csv", "video;class\r\nx/1.mp4;run\r\nx/2.mp4;jump, high"),
        ("a.tsv", "file\taction\nx/1.mp4\trun\nx/2.mp4\tjump, high\n"),
        ("a.txt", "path|label\nx/1.mp4|run\nx/2.mp4|jump, high\n"),
        ("a.jsonl", '{"video": "x/1.mp4", "label": "run"}\n\n{"path": "x/2.mp4", "class": "jump, high"}\n'),
        ("a.json", '[{"video": "x/1.mp4", "label": "run"}, {"video": "x/2.mp4", "label": "jump, high"}]'),
        ("a.tsv", "x/1.mp4\trun\nx/2.mp4\tjump, high\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_every_form_say_the_same(tmp_path, name, text, encoding):
    found = entries(tmp_path / name, text, encoding)
    assert found == (
        AnnotationEntry(video="x/1.mp4", label="run"),
        AnnotationEntry(video="x/2.mp4", label="jump, high"),
    )


def test_times_splits_and_captions(tmp_path):
    text = "path,label,start,end,split,caption\na.mp4,run,1.5,3,train,a man runs\nb.mp4,run,,,test,\n"
    path = tmp_path / "a.csv"
    assert entries(path, text)[0] == AnnotationEntry(
        video="a.mp4", label="run", start_s=1.5, end_s=3.0, captions=("a man runs",)
    )
    assert list(read_list(path).splits) == ["train", "test"]
    line = {"video": "a.mp4", "label": 3, "captions": ["one", "two"], "start": 0, "end": 2.5}
    found = entries(tmp_path / "a.jsonl", json.dumps(line))
    assert found == (
        AnnotationEntry(video="a.mp4", label="3", start_s=0, end_s=2.5, captions=("one", "two")),
    )


def test_lists_of_the_original_projects(tmp_path):
    comma = "val/air drumming/a,b_000001_000011.mp4,3\nx.mp4,0,7\n"
    assert [(e.video, e.label) for e in entries(tmp_path / "a.csv", comma)] == [
        ("val/air drumming/a,b_000001_000011.mp4", "3"),
        ("x.mp4", "0"),
    ]
    blank = "a film (1).avi 4\r\n154139.webm 19"
    assert [(e.video, e.label) for e in entries(tmp_path / "a.txt", blank)] == [
        ("a film (1).avi", "4"),
        ("154139.webm", "19"),
    ]
    assert [e.label for e in entries(tmp_path / "a.txt", "val/air drumming/x.mp4\ny.avi\n")] == [None, None]
    assert entries(tmp_path / "a.csv", blank) == entries(tmp_path / "a.txt", blank)  # whatever the suffix
    assert entries(tmp_path / "a.txt", comma) == entries(tmp_path / "a.csv", comma)
    assert entries(tmp_path / "a.csv", "x/y z.mp4\n") == entries(tmp_path / "a.txt", "x/y z.mp4\n")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a b 3\nc, 5 d 4\n",
            [("a b", "3"), ("c, 5 d", "4")],
        ),  # a first line that shows a number behind a comma
        ("x, 1\ny 2\nz 3\nw, v.mp4 0\n", [("x,", "1"), ("y", "2"), ("z", "3"), ("w, v.mp4", "0")]),
        ("x/1,run\nx/2,jump high\n", [("x/1", "run"), ("x/2", "jump high")]),
        ("x/1 run\nx/2 jump\n", [("x/1", "run"), ("x/2", "jump")]),
        ("path label\nx/1.mp4 run\n", [("x/1.mp4", "run")]),
        ('"x, y.mp4",3\n"z.mp4",4\n', [("x, y.mp4", "3"), ("z.mp4", "4")]),
    ],
)
def test_what_parts_path_and_label_is_read_from_the_lines(tmp_path, suffix, text, expected):
    assert [(e.video, e.label) for e in entries(tmp_path / f"a{suffix}", text)] == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "x/1,run\nx/2 run\n",
            r"a.csv' line 2 has no ',' between path and label: 'x/2 run'; add it",
        ),
        ("a.tsv", "x/1,run\nx/2\n", "line 1 has no tab between path and label"),
        ("a.txt", "x/1 run\nx/2\n", "line 2 has no space between path and label"),
        ("a.csv", "path label\nx/1.mp4 run fast\n", "line 2 has 3 cells, not 2; quote cells that hold ' '"),
        ("a.csv", "path,label\nx/1.mp4,jump, high\n", "line 2 has 3 cells, not 2; quote cells that hold ','"),
        ("a.csv", "path,label\n,run\n", "line 2 names no video"),
        ("a.csv", "path,label\n", "lists no videos"),
        ("a.csv", "", "is empty"),
        ("a.csv", "path,label\na.mp4,run\nb.mp4,\n", "has labels for some videos but not for all"),
        ("a.txt", "a.mp4 run\nb.mp4\n", "has labels for some videos but not for 'b.mp4'"),
        ("a.csv", "path,start\na.mp4,-1\n", "line 2 has a time that is not seconds from 0: '-1'"),
        ("a.csv", "path,start\na.mp4,soon\n", "not seconds from 0: 'soon'"),
        ("a.csv", "path,start,end\na.mp4,3,3\n", "line 2 ends at 3 s, before it starts at 3 s"),
        ("a.jsonl", '{"video": "a.mp4"\n', "a.jsonl' line 1 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 must be an object"),
        ("a.jsonl", '{"video": "a.mp4", "captions": ["x", " "]}', "line 1 has an empty caption"),
        ("a.json", '{"a": 1}', "is not a list of videos"),
        ("a.json", "{", "is not JSON: .* in line 1"),
    ],
)
def test_what_is_wrong_with_a_list_is_said_with_its_line(tmp_path, name, text, message):
    with pytest.raises(VactkError, match=message):
        entries(tmp_path / name, text)


def test_text_that_is_not_utf_8_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("path,label\na.mp4,run\nb.mp4,fußball\n".encode("latin-1"))
    with pytest.raises(VactkError, match=r"a.csv' is not UTF-8 text: byte 0xdf in line 3; save it as UTF-8"):
        read_list(path)
    path.write_bytes(b"PK\x03\x04\0\0\0")
    with pytest.raises(VactkError, match=r"a.csv' is not a text file"):
        read_list(path)
    with pytest.raises(VactkError, match=r"cannot read '.*absent.csv': No such file"):
        read_list(tmp_path / "absent.csv")


def test_a_name_without_folder_and_video_suffix():
    assert bare_name("val\\x\\a.b.MP4") == "a.b"
    assert bare_name("-aNccq2jvUA_000055_000065") == "-aNccq2jvUA_000055_000065"
    assert bare_name("x/v1.2") == "v1.2"
