from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import vactk
from tests.video.conftest import write_video
from vactk.data.windows import WindowConfig
from vactk.evaluate import answer_files
from vactk.evaluate.answer_files import check_output, write_predictions, write_timelines
from vactk.evaluate.timeline import (
    Segment,
    Timelines,
    VideoTimeline,
    WindowScores,
    cheapest_paths,
    make_timeline,
    moments,
    unrelated_phrases,
)

LABELS = ("star", "key")
SPANS = [(float(n), n + 2.0) for n in range(9)]  # of 10 seconds


def scores(shown, level=0.3):
    """Of windows that show a label, by its number, or none of them (-1)."""
    cosines = torch.full((len(shown), len(LABELS)), 0.1)
    for window, number in enumerate(shown):
        if number >= 0:
            cosines[window, number] = 0.8
    return WindowScores(SPANS, cosines, torch.full((len(shown),), level), scale=25.0)


def spans_of(timeline):
    return [(segment.label, segment.start_s, segment.end_s) for segment in timeline.segments]


def test_the_cheapest_path_is_the_best_of_all_paths():
    draw = np.random.default_rng(0)
    values = draw.normal(size=(5, 2, 3))
    found = cheapest_paths(values, 0.7)
    for group in range(2):

        def total(path, group=group):
            changes = sum(a != b for a, b in itertools.pairwise(path))
            return sum(values[k, group, state] for k, state in enumerate(path)) - 0.7 * changes

        assert tuple(found[:, group]) == max(itertools.product(range(3), repeat=5), key=total)


@pytest.mark.parametrize("spans", [SPANS, [(0.0, 1.5), (0.7, 2.2), (1.4, 2.6)], [(0.0, 3.0)]])
def test_a_moment_is_covered_by_the_windows_that_hold_it(spans):
    edges_s, cover = moments(spans)
    assert edges_s[0] == 0
    assert edges_s[-1] == spans[-1][1]
    for start_s, end_s, (first, stop) in zip(edges_s[:-1], edges_s[1:], cover, strict=True):
        holds = [n for n, span in enumerate(spans) if span[0] <= start_s and end_s <= span[1]]
        assert list(range(first, stop)) == holds


def test_labels_follow_one_another_and_none_of_these_is_an_answer():
    timeline = make_timeline(Path("a.mp4"), LABELS, scores([0, 0, 0, -1, -1, -1, 1, 1, 1]))
    assert [label for label, *_ in spans_of(timeline)] == ["star", None, "key"]
    assert timeline.segments[0].start_s == 0
    assert timeline.segments[-1].end_s == timeline.duration_s == 10
    assert all(a.end_s == b.start_s for a, b in itertools.pairwise(timeline.segments))
    assert all(0.5 < segment.probability <= 1 for segment in timeline.segments)
    assert timeline.segments[0].similarity == pytest.approx(0.8, abs=0.1)
    assert timeline.probabilities.shape == (len(timeline.edges_s) - 1, 2)


def test_a_short_doubt_changes_nothing_and_costs_decide_what_is_short():
    shown = scores([0, 0, 0, 0, 1, 1, 0, 0, 0], level=-1.0)
    assert spans_of(make_timeline(Path("a"), LABELS, shown, change_cost=20.0)) == [("star", 0.0, 10.0)]
    assert len(make_timeline(Path("a"), LABELS, shown, change_cost=0.0).segments) == 3


def test_several_labels_at_a_time():
    both = scores([0, 0, 0, 0, 0, 0, 0, 0, 0])
    both.cosines[4:, 1] = 0.8
    timeline = make_timeline(Path("a"), LABELS, both, multi_label=True)
    (star, key) = timeline.segments
    assert (star.label, star.start_s, star.end_s, key.label, key.end_s) == ("star", 0, 10, "key", 10)
    assert 4 <= key.start_s <= 6


def test_unrelated_phrases_share_no_word_with_the_labels():
    phrases = unrelated_phrases(("playing guitar", "dancing"))
    assert len(phrases) == len(set(phrases)) == 100
    assert not {"playing", "guitar", "dancing"} & {word for phrase in phrases for word in phrase.split()}
    everything = tuple(unrelated_phrases((), 600))
    assert len(everything) == 600
    assert unrelated_phrases(everything) == ()


@pytest.fixture
def found():
    segments = (
        Segment(0.0, 61.5, "star, red", 0.9, 0.5),
        Segment(61.5, 3700.25, None, 0.8, 0.1),
        Segment(3700.25, 3710.0, "key", 0.75, 0.4),
    )
    edges_s = (0.0, 61.5, 3700.25, 3710.0)
    labels = ("star, red", "key")
    timeline = VideoTimeline(Path("a.mp4"), labels, segments, edges_s, torch.rand(3, 2, dtype=torch.float64))
    return Timelines(WindowConfig(length_s=4.0, stride_s=1.0), False, None, ("a phrase",), [timeline])


def test_timelines_are_written_as_tables_lines_and_subtitles(found, tmp_path):
    result = {**found.to_json(), "failed": [{"video": "b.mp4", "error": "broken, twice"}], "model": "toy"}
    for suffix in (".csv", ".json", ".jsonl", ".srt"):
        write_timelines(tmp_path / f"t{suffix}", result, found)
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["label"] for row in rows] == ["star, red", "none of these", "key", ""]
    assert (rows[0]["start_s"], rows[0]["end_s"], rows[0]["probability"]) == ("0.000", "61.500", "0.900000")
    assert (rows[3]["video"], rows[3]["error"]) == ("b.mp4", "broken, twice")
    assert json.loads((tmp_path / "t.json").read_text()) == result
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [line.get("label") for line in lines] == ["star, red", None, "key", None]
    assert (tmp_path / "t.srt").read_text() == (
        "1\n00:00:00,000 --> 00:01:01,500\nstar, red (90%)\n\n2\n01:01:40,250 --> 01:01:50,000\nkey (75%)\n"
    )


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_timeline_is_drawn_with_its_labels(found, tmp_path, suffix):
    pytest.importorskip("matplotlib", reason="needs pip install 'vactk[report]'")
    write_timelines(tmp_path / f"t{suffix}", {**found.to_json(), "model": "toy"}, found)
    content = (tmp_path / f"t{suffix}").read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


def test_predictions_are_written_a_row_for_each_video(tmp_path):
    labels = [{"label": name, "probability": 0.5, "similarity": 0.25} for name in LABELS]
    result = {
        "predictions": [{"video": "a.mp4", "labels": labels}],
        "failed": [{"video": "b", "error": "no"}],
    }
    for suffix in answer_files.PREDICTION_FORMATS:
        write_predictions(tmp_path / f"p{suffix}", result)
    row, failed = csv.DictReader((tmp_path / "p.csv").open())
    assert (row["video"], row["label"], row["label_2"], row["similarity_2"]) == ("a.mp4", *LABELS, "0.250000")
    assert (failed["label"], failed["error"]) == ("", "no")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert lines == [*result["predictions"], *result["failed"]]


@pytest.mark.parametrize(
    ("name", "videos", "over_time", "message"),
    [
        ("a.xls", 1, False, r"unknown format for --output, by its suffix, '\.xls'"),
        ("a.srt", 1, False, "add --window"),
        ("a.srt", 2, True, "subtitles of one video, got 2 videos"),
        ("a.png", 13, True, "at most 12 videos, got 13"),
        (".csv", 1, True, "by its suffix"),
    ],
)
def test_files_that_cannot_hold_the_answers_are_refused(tmp_path, name, videos, over_time, message):
    with pytest.raises(vactk.VactkError, match=message):
        check_output(tmp_path / name, videos, over_time=over_time)


@pytest.fixture(scope="module")
def predictor():
    model = vactk.load_model("toy", device="cpu", settings={"data.workers": 0, "data.num_frames": 2})
    return vactk.Predictor(model, LABELS)


def test_the_predictor_labels_windows_by_the_models_own_similarities(predictor, tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=36)
    (tmp_path / "b.mp4").write_bytes(b"broken")
    found = predictor.segments([path, tmp_path / "b.mp4"], window=1.0, stride=1.0, threshold=-1.0)
    (timeline,) = found
    assert [failure.record_index for failure in found.failures] == [1]
    assert found.phrases == ()
    with vactk.open_video(path) as video:
        clips = [video.read(range(12 * n, 12 * n + 12)) for n in range(3)]
    model = predictor.model
    cosines = model.embed_video(clips) @ model.embed_text([f"a video of {label}" for label in LABELS]).T
    scale = model.video_clip.logit_scale.detach()
    logits = scale * torch.cat([cosines, torch.full((3, 1), -1.0)], dim=1)
    torch.testing.assert_close(timeline.probabilities.float(), logits.softmax(1)[:, :2], rtol=0, atol=1e-4)
    assert all(segment.label is not None for segment in timeline.segments)
    nothing = predictor.segments(path, window=1.0, threshold=1.0)
    assert spans_of(nothing[0]) == [(None, 0.0, 3.0)]
    assert nothing.windows.step_s == 0.25
    assert len(predictor.segments(path, window=1.0).phrases) == 100


def test_windows_that_make_no_sense_are_refused(predictor):
    with pytest.raises(vactk.VactkError, match="more than 0 seconds, got 0"):
        predictor.segments("a.mp4", window=0.0)
