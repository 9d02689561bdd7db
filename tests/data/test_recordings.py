from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vactk.data.recordings import choose_held_out, recordings, single_recordings

PIECES = {  # names -> the recording that they are pieces of
    ("v_Rowing_g16_c03", "v_Rowing_g16_c04"): "v_rowing_g16",
    ("RATRACE_wave_f_nm_np1_fr_goo_37", "RATRACE_wave_u_cm_np2_le_med_2"): "ratrace_wave",
    ("SOX5yA1l24A_000012_000022", "SOX5yA1l24A_000032_000042"): "sox5ya1l24a",
    ("match_part3", "match-Part 4", "match (pt2)"): "match",
    ("match-Scene-001", "match-Scene-002"): "match",
    ("clip_12_of_match", "clip_3_of_match"): "match",
    ("match-0001", "match-0002", "match.003", "match (4)"): "match",
}


@pytest.mark.parametrize(("names", "recording"), PIECES.items())
def test_pieces_are_known_by_their_names(names, recording):
    paths = [*(f"a/{name}.mp4" for name in names), "a/other.mp4"]
    found = recordings(paths, ["a"] * len(paths))
    assert found == [*[f"recording {recording}"] * len(names), "a/other.mp4"]


@pytest.mark.parametrize(
    "names", [("IMG_4021", "IMG_4022"), ("20240105_101530", "20240105_101632"), ("a1", "a2"), ("x", "y")]
)
def test_other_names_are_recordings_of_their_own(names):
    paths = [*(f"{name}.mp4" for name in names), "other.mp4"]
    assert recordings(paths, ["a"] * 3) == paths


def test_numbers_after_the_only_name_of_a_class_count_its_videos():
    paths = [f"{label}/{label}_{n:02}.mp4" for label in ("run", "jump") for n in range(3)]
    assert recordings(paths, [path.split("/")[0] for path in paths]) == paths
    same = [f"{label}/clip-{n}.mp4" for label in ("run", "jump") for n in range(3)]
    assert recordings(same, [path.split("/")[0] for path in same]) == same


def test_a_recording_of_two_classes_stays_one_where_another_tells_it_apart():
    paths = ["goal/match-01.mp4", "goal/derby-01.mp4", "foul/match-02.mp4"]
    found = recordings(paths, ["goal", "goal", "foul"])
    assert found[0] == found[2] == "recording match"


def test_segments_of_a_file_are_of_one_recording():
    assert recordings(["long.mp4", "long.mp4", "b.mp4"], ["a", "a", "a"]) == ["long.mp4", "long.mp4", "b.mp4"]


def test_classes_that_are_one_recording_are_named():
    paths = ["a_part1.mp4", "a_part2.mp4", "b_01.mp4", "b_02.mp4", "c.mp4", "c.mp4", "d.mp4"]
    assert single_recordings(paths, ["a", "a", "b", "b", "c", "c", "d"]) == ["a", "c"]


groups = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("uvwxyz")), min_size=1, max_size=40)


@given(groups, st.integers(1, 6), st.randoms(use_true_random=False))
def test_whole_recordings_are_held_out_and_half_of_each_class_stays(pairs, count, rng):
    labels, names = zip(*pairs, strict=True)
    order = list(range(len(pairs)))
    rng.shuffle(order)
    held = choose_held_out(labels, names, dict.fromkeys("abc", count), order)
    assert not {names[i] for i in held} & {names[i] for i in order if i not in held}
    total, taken = Counter(labels), Counter(labels[i] for i in held)
    assert all(2 * taken[label] <= total[label] for label in total)


def test_as_many_are_held_out_as_wanted_in_the_given_order():
    labels = ["a"] * 6 + ["b"] * 4
    singles = [str(n) for n in range(10)]
    assert choose_held_out(labels, singles, {"a": 2, "b": 1}, range(9, -1, -1)) == {5, 4, 9}
    assert choose_held_out(labels[:6], list("uuuvvw"), {"a": 2}, range(6)) == {3, 4}
    assert choose_held_out(labels[:6], list("uuuvvv"), {"a": 2}, range(6)) == {0, 1, 2}  # the least too many
    assert choose_held_out(["a"], ["u"], {"a": 1}, [0]) == set()
