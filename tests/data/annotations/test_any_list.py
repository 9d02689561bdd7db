"""Properties of list readers: whatever is written is read again, and any text is read or refused in words."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.annotation_formats import FORMATS, read_annotations
from vactk.data.annotations.descriptions import read_descriptions
from vactk.data.annotations.lists import read_list
from vactk.errors import VactkError

# what a cell can hold: no control characters, no ends of lines, no blanks at its ends
text = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12)
cells = text.map(lambda value: value.strip("\ufeff ")).filter(lambda value: value.strip() == value and value)
times = st.none() | st.tuples(st.integers(0, 50), st.integers(51, 99))
rows = st.lists(st.tuples(cells, cells, times), min_size=1, max_size=6)


def read(name: str, content: str | bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_list(path)


def found(annotations):
    return [
        (e.video, e.label, None if e.start_s is None else (e.start_s, e.end_s)) for e in annotations.entries
    ]


@given(rows, st.sampled_from([(".csv", ","), (".tsv", "\t"), (".csv", ";")]))
def test_tables_give_back_what_was_written(listed, form):
    suffix, delimiter = form
    file = io.StringIO()
    table = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    table.writerow(["path", "label", "start", "end"])
    for video, label, span in listed:
        table.writerow([video, label, *(span or ("", ""))])
    assert found(read(f"x{suffix}", file.getvalue())) == listed


@given(rows, st.booleans())
def test_json_gives_back_what_was_written(listed, as_lines):
    objects = [
        {"video": video, "label": label, "start": span and span[0], "end": span and span[1]}
        for video, label, span in listed
    ]
    if as_lines:
        annotations = read("x.jsonl", "\n".join(json.dumps(value) for value in objects))
    else:
        annotations = read("x.json", json.dumps(objects, ensure_ascii=False))
    assert found(annotations) == listed


def read_or_refuse(reader) -> None:
    """Anything but a VactkError with a message comes through."""
    try:
        reader()
    except VactkError as error:
        if not str(error):
            raise AssertionError("an error that says nothing") from error


contents = st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))


@settings(max_examples=300)
@given(st.sampled_from(sorted(FORMATS)), contents)
def test_any_bytes_are_read_or_refused_in_words(form, content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.csv")
        path.write_bytes(content)
        read_or_refuse(lambda: read_annotations(path.parent if form.endswith("-splits") else path, form))


keys = st.sampled_from(["video", "label", "descriptions", "id", "start", "split", "captions", "template"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200)
@given(json_values)
def test_any_json_is_read_or_refused_in_words(value):
    with tempfile.TemporaryDirectory() as folder:
        path, lines = Path(folder, "file.json"), Path(folder, "file.jsonl")
        for one in (path, lines):
            one.write_text(json.dumps(value))
        for form in (form for form in FORMATS if "splits" not in form):
            read_or_refuse(lambda form=form: read_annotations(path, form))
        read_or_refuse(lambda: read_list(lines))
        read_or_refuse(lambda: read_descriptions(lines))


def test_rows_with_captions_of_one_video_are_joined_within_a_split(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text(
        "path,caption,split\na.mp4,one,train\nb.mp4,two,train\na.mp4,three,train\na.mp4,four,test\n"
    )
    splits = read_list(path).splits
    assert [(entry.video, entry.captions) for entry in splits["train"]] == [
        ("a.mp4", ("one", "three")),
        ("b.mp4", ("two",)),
    ]
    assert [entry.captions for entry in splits["test"]] == [("four",)]
    path.write_text("path,label\na.mp4,x\na.mp4,x\n")
    assert len(read_list(path).entries) == 2  # duplicates without captions are reported
