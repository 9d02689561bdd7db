from __future__ import annotations

import pytest

from vactk.errors import VactkError, first_line, nearest, pick


def test_pick_gives_the_entry():
    assert pick({"a": 1}, "a", "letter") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aple", "unknown fruit 'aple'; did you mean 'apple'?"),
        ("APPLE", "unknown fruit 'APPLE'; did you mean 'apple'?"),
        ("xyz", "unknown fruit 'xyz'; choose from apple, banana"),
    ],
)
def test_an_unknown_name_names_the_nearest_or_the_choices(name, message):
    with pytest.raises(VactkError) as caught:
        pick({"banana": 1, "apple": 2}, name, "fruit")
    assert str(caught.value) == message


def test_long_lists_of_choices_are_cut():
    table = {f"choice-{number:02d}": number for number in range(40)}
    with pytest.raises(VactkError, match=r"choose from choice-00, .*choice-11, \.\.\.$"):
        pick(table, "zzz", "thing")


def test_nothing_is_nearest_to_something_else_altogether():
    assert nearest("zebra", ["apple"]) is None


def test_the_first_line_of_an_error():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
