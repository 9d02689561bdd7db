from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vactk.errors import VactkError
from vactk.text.descriptions import match_descriptions, shorten

VIDEOS = [Path("/data/train/run/a.mp4"), Path("/data/train/jump/a.mp4"), Path("/data/train/jump/b.mp4")]


def count_words(text):
    return len(text.split())


@pytest.mark.parametrize(
    "name",
    [
        "/data/train/jump/b.mp4",
        "data/train/jump/b.mp4",
        "train/jump/b.mp4",
        "./jump/b.mp4",
        "jump//b.mp4",
        "jump\\b.mp4",
        "b.mp4",
    ],
)
def test_a_video_is_found_by_its_path_or_the_end_of_it(name):
    matched = match_descriptions({name: ("one", "two")}, VIDEOS)
    assert matched.texts == ((), (), ("one", "two"))
    assert matched.missing == tuple(VIDEOS[:2])
    assert matched.extra == ()


def test_only_whole_names_of_folders_and_files_match():
    with pytest.raises(VactkError, match="none of the 3 described videos is among the 3 videos to train on"):
        match_descriptions({"ump/b.mp4": ("x",), ".mp4": ("x",), "": ("x",)}, VIDEOS)


def test_missing_and_extra_videos_are_told():
    matched = match_descriptions({"run/a.mp4": ("x",), "c.mp4": ("y",), "old/b.mp4": ("z",)}, VIDEOS)
    assert matched.texts == (("x",), (), ())
    assert matched.missing == tuple(VIDEOS[1:])
    assert matched.extra == ("c.mp4", "old/b.mp4")


def test_an_entry_without_texts_is_missing_and_not_extra():
    matched = match_descriptions({"run/a.mp4": (), "b.mp4": ("x",)}, VIDEOS)
    assert matched.missing == tuple(VIDEOS[:2])
    assert matched.extra == ()


def test_an_entry_that_could_mean_several_videos_is_refused():
    with pytest.raises(
        VactkError, match=r"'a.mp4' is ambiguous: '.*/jump/a.mp4' or '.*/run/a.mp4'; give more of the path"
    ):
        match_descriptions({"a.mp4": ("x",)}, VIDEOS)


def test_the_longest_end_that_is_described_counts():
    """A folder with a.mp4 and sub/a.mp4, described by paths in it; all of it is trained on, or a part."""
    described = {"a.mp4": ("outer",), "sub/a.mp4": ("inner",)}
    outer, inner = Path("/data/a.mp4"), Path("/data/sub/a.mp4")
    assert match_descriptions(described, [outer, inner]).texts == (("outer",), ("inner",))
    matched = match_descriptions(described, [inner])
    assert matched.texts == (("inner",),)
    assert matched.extra == ("a.mp4",)


def test_a_whole_path_counts_before_an_end():
    matched = match_descriptions({"a.mp4": ("x",)}, [Path("sub/a.mp4"), Path("a.mp4")])
    assert matched.texts == ((), ("x",))


def test_spellings_of_one_path_add_up_and_records_of_one_video_share():
    matched = match_descriptions({"jump/b.mp4": ("x",), "jump\\b.mp4": ("y",)}, [VIDEOS[2], VIDEOS[2]])
    assert matched.texts == (("x", "y"), ("x", "y"))


def test_short_texts_stay_as_they_are():
    text = "a man  runs. he stops"
    assert shorten(text, count_words, 5) is text


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (9, "A man runs. He stops! Does he sit?"),
        (7, "A man runs. He stops!"),
        (3, "A man runs."),
        (2, "A man"),
        (1, "A"),
    ],
)
def test_long_texts_keep_whole_sentences_else_words(limit, kept):
    text = "A man runs. He stops! Does he sit? He goes on for a while"
    assert shorten(text, count_words, limit) == kept


def test_a_word_that_alone_is_too_long_is_left_to_the_tokenizer():
    assert shorten("abcdef gh", len, 3) == "abcdef gh"


@given(text=st.text(alphabet="ab .!;"), limit=st.integers(1, 8))
def test_what_is_kept_is_the_beginning_and_fits(text, limit):
    kept = shorten(text, count_words, limit)
    assert count_words(kept) <= limit
    assert text.split()[: count_words(kept)] == kept.split()


def test_a_video_is_found_without_its_suffix():
    matched = match_descriptions({"jump/b": ("x",), "run/a.mp4": ("y",)}, VIDEOS)
    assert matched.texts == (("y",), (), ("x",))


def test_descriptions_that_are_all_the_same_are_refused():
    with pytest.raises(VactkError, match="all 2 videos with a description have the same one, 'a video'"):
        match_descriptions({"run/a.mp4": ("a video", "a video"), "b.mp4": ("a video",)}, VIDEOS)
    assert match_descriptions({"run/a.mp4": ("a video", "x"), "b.mp4": ("a video",)}, VIDEOS).texts[1] == ()


def test_of_enormous_texts_only_a_start_is_counted():
    seen = []

    def count(text):
        seen.append(len(text))
        return len(text.split())

    assert shorten("word " * 1_000_000, count, 5) == "word word word word word"
    assert shorten("x" * 1_000_000, count, 5) == "x" * 1000
    assert max(seen) <= 1000
