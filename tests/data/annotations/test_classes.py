from __future__ import annotations

import pytest

from vactk.data.annotations.classes import (
    ClassIndex,
    known_classes,
    match_key,
    read_classes,
    words_of,
)
from vactk.errors import VactkError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "brush hair\nHandstandPushups\n"),
        ("a.txt", "1 brush hair\r\n2 HandstandPushups"),
        ("a.csv", "id,name\n0,brush hair\n1,HandstandPushups\n"),
        ("a.csv", 'id,name\n1,"HandstandPushups"\n0,brush hair\n'),
        ("a.json", '{"brush hair": 0, "HandstandPushups": "1"}'),
        ("a.json", '{"0": "brush hair", "1": "HandstandPushups"}'),
        ("a.json", '["brush hair", "HandstandPushups"]'),
    ],
)
def test_class_tables_of_every_form(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert read_classes(path) == ("brush hair", "HandstandPushups")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "is empty"),
        ("a.csv", "id,name\n0,a\n2,b\n", "must count from 0 or 1 without gaps or repeats"),
        ("a.csv", "id,name\n0,a\n0,b\n", "without gaps or repeats"),
        ("a.csv", "id,name\n0,falling, slowly\n", "line 2 must be a number and a name; quote"),
        ("a.json", '{"a": "x"}', "numbers must be whole numbers"),
        ("a.json", "3", "is not a class table"),
    ],
)
def test_class_tables_that_are_wrong(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(VactkError, match=message):
        read_classes(path)


def test_classes_are_found_in_any_spelling_and_by_number():
    index = ClassIndex(("brush_hair", "HandstandPushups"), "here")
    assert [index.find(name) for name in ("Brush Hair", "HandStandPushups", "1", "2", "brush")] == [
        0,
        1,
        1,
        None,
        None,
    ]
    assert index.describe_unknown(["brush_hiar"]) == [
        "unknown class 'brush_hiar'; did you mean 'brush_hair'?"
    ]


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(
        VactkError, match=r"'here' has two classes of the same name: 'shake_hands' and 'Shake hands'"
    ):
        ClassIndex(("shake_hands", "Shake hands"), "here")
    with pytest.raises(VactkError, match="has a class without a name"):
        ClassIndex(("run", "..."), "here")


def test_classes_become_words_by_table_or_by_rule():
    assert words_of(("handstandpushups", "RopeClimbing", "brush_hair"), known_classes("ucf101")) == (
        "handstand pushups",
        "rope climbing",
        "brush hair",
    )


@pytest.mark.parametrize("dataset", ["hmdb51", "ucf101", "k400", "k600", "ssv2"])
def test_shipped_names_can_be_told_apart(dataset):
    keys = [match_key(label) for label in known_classes(dataset)]
    assert len(set(keys)) == len(keys)
