from __future__ import annotations

import json
import re

import pytest

from tests.report.conftest import drawn
from tests.report.recompute import curves, recompute
from tests.train.conftest import Quiet, quick_recipe, small_shapes  # noqa: F401 - fixtures
from tests.video.conftest import write_video
from vactk.errors import VactkError
from vactk.evaluate.report_files import save_report
from vactk.report import page
from vactk.report.metrics_log import MOST_POINTS, thinned
from vactk.report.page import write_report
from vactk.report.predictions import FILE, read_predictions, write_predictions
from vactk.train.run import train


def embedded(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="figures">(.*?)</script>', text)[1])


def check_figures(folder, run):
    """Compare the numbers of a page with those of the slow script."""
    expected = recompute(folder)
    assert [(one["split"], one["by"]) for one in run["sets"]] == list(expected)
    for one in run["sets"]:
        slow = expected[one["split"], one["by"]]
        for name in ("top1", "top5", "mean_class"):
            assert tuple(one[name][key] for key in ("value", "low", "high")) == pytest.approx(
                slow[name], abs=1e-6
            )
        for name in ("num_videos", "num_unread", "chance", "calibration_error"):
            assert one[name] == pytest.approx(slow[name], abs=1e-6)
    for split, shown in run["details"].items():
        slow = expected[split, next(by for name, by in expected if name == split)]
        classes = {one["label"]: (one["right"], one["num_videos"]) for one in shown["classes"]}
        assert classes == slow["classes"]
        counts = {(one["label"], one["answer"]): one["count"] for one in shown["confusions"]}
        assert counts.items() <= slow["confused"].items()
        assert sorted(counts.values()) == sorted(slow["confused"].values())[-20:]


def test_a_run_leaves_a_report_whose_numbers_another_script_computes(tmp_path, small_shapes, quick_recipe):  # noqa: F811
    folder, reporter = tmp_path / "run", Quiet()
    result = train(quick_recipe("run.eval_every=1", "held_out=0.2"), folder, resume=False, reporter=reporter)
    assert f"report: {folder / 'report.html'}" in reporter.messages
    (run,) = embedded(folder / "report.html")["runs"]
    check_figures(folder, run)
    losses, tops = curves(folder)
    assert run["curves"]["losses"]["loss"] == losses
    assert run["curves"]["evaluations"]["train, held out, top-1"] == tops
    for one in run["sets"]:
        accuracy = result.metrics[one["split"]]
        own = accuracy if one["by"] == "similarity" else accuracy[one["by"]]
        assert (one["top1"]["value"], one["top5"]["value"]) == pytest.approx((own["top1"], own["top5"]))
    row = read_predictions(folder)[0]
    assert len(row.frames_s) == 2
    first = (folder / "report.html").read_bytes()
    assert b"where the answer comes from" in first
    write_report([folder], folder / "report.html")
    assert (folder / "report.html").read_bytes() == first  # no dates, no random names


def test_four_hundred_classes_stay_readable(make_run):
    folder = make_run("many", 400, 3)
    (run,) = write_report([folder], folder / "report.html")["runs"]
    check_figures(folder, run)
    text = (folder / "report.html").read_text()
    assert "The 20 classes with the lowest accuracy" in text
    assert "without names" in text
    assert len(text) < 2_000_000


def test_names_are_text_whatever_they_hold(make_run):
    folder = make_run("bad", names="<script>alert({})</script> $x_1$ & é")
    write_report([folder], folder / "report.html")
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(0)" in text


def test_videos_are_shown_and_those_that_are_gone_say_so(make_run, tmp_path):
    write_video(tmp_path / "0_0.mp4")
    folder = make_run("some", video=f"{tmp_path}/{{}}_{{}}.mp4")
    write_report([folder], folder / "report.html")
    text = (folder / "report.html").read_text()
    assert "the video is no longer there" in text
    assert "it is damaged" in text


def test_runs_side_by_side_are_tested_on_common_videos(make_run, tmp_path):
    runs = [make_run("one", 6, 9, skill=0.3), make_run("two", 6, 9, seed=1, skill=0.9)]
    figures = write_report(runs, tmp_path / "both.html")
    (found,) = figures["comparison"]
    one, two = (read_predictions(run) for run in runs)
    assert found["only_first"] == sum(a.rank == 1 and b.rank != 1 for a, b in zip(one, two, strict=True))
    assert found["only_second"] == sum(a.rank != 1 and b.rank == 1 for a, b in zip(one, two, strict=True))
    assert found["p"] < 0.01
    write_predictions(runs[1], drawn(6, 5, video="/else/{}_{}.mp4")[:-1])
    with pytest.raises(VactkError, match=r"have no video in common: one has test, '/gone/0_0\.mp4'"):
        write_report(runs, tmp_path / "both.html")
    write_predictions(runs[1], drawn(6, 9, names="other {}"))
    with pytest.raises(VactkError, match="is labelled 'class 000' in one run and 'other 0'"):
        write_report(runs, tmp_path / "both.html")


def test_predictions_are_read_as_they_were_written(make_run):
    folder = make_run()
    rows = drawn(6, 5)
    for row, expected in zip(read_predictions(folder), rows, strict=True):
        assert (row.key, row.label, row.rank, row.error) == (
            expected.key, expected.label, expected.rank, expected.error,
        )  # fmt: skip
        assert [one.probability for one in row.top] == pytest.approx(
            [one.probability for one in expected.top]
        )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("similarity,6,", "similarity,six,", "line 2 is damaged: num_classes is 'six', not a whole number"),
        (",0.3,", ",high,", "line 2 is damaged: similarity_1 is 'high', not a number"),
        ("test,", "test,,", "line 2 has 28 cells, but the header has 27 columns"),
        ("split,by", "part,by", "line 1 lacks the column 'split'"),
    ],
)
def test_a_damaged_row_is_named(make_run, old, new, message):
    folder = make_run()
    text = (folder / FILE).read_text()
    (folder / FILE).write_text(text.replace(old, new, 1))
    with pytest.raises(VactkError, match=re.escape(message)):
        read_predictions(folder)


def test_without_the_packages_one_line_says_how_to_get_them(make_run, monkeypatch):
    folder, said = make_run(), []
    monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: None)
    save_report(folder, said.append)
    assert len(said) == 1
    assert "pip install 'vactk[report]', then vactk report" in said[0]
    with pytest.raises(VactkError, match="a report needs matplotlib and jinja2"):
        write_report([folder], folder / "report.html")


def test_what_is_no_report_is_left_alone(make_run, tmp_path):
    (tmp_path / "mine.html").write_text("precious")
    with pytest.raises(VactkError, match="exists and is no report"):
        write_report([make_run()], tmp_path / "mine.html")


def test_long_curves_become_means():
    curve = [(float(step), 2.0 * step) for step in range(10_000)]
    short = thinned(curve)
    assert len(short) == MOST_POINTS
    assert all(value == pytest.approx(2 * step) for step, value in short)
