from __future__ import annotations

import pytest

from vactk.evaluate.curve import SetCurve, draw_curve
from vactk.evaluate.pictures import label_points, new_figure

pytest.importorskip("matplotlib", reason="needs pip install 'vactk[report]'")
ALPHAS = [n / 10 for n in range(11)]
CROWDED = [60 + n**0.3 for n in range(11)]


def test_small_sets_have_error_bars_around_their_values():
    below, above = SetCurve("a", [0.0, 50.0, 100.0], 50).errors()
    assert below[0] == 0
    assert above[2] == 0
    assert min(below[1:]) > 0
    assert SetCurve("a", [50.0], 10**5).errors() is None


def test_labels_of_crowded_points_do_not_collide():
    axes = new_figure(5, 4)
    points = list(zip(CROWDED, reversed(CROWDED), strict=True))
    axes.plot(*zip(*points, strict=True))
    texts = [f"{alpha:g}" for alpha in ALPHAS]
    left_out = label_points(axes, points, texts, first=[10])
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])
    assert {text.get_text() for text in axes.texts} | {*left_out} == {*texts}
    assert axes.texts[0].get_text() == "1"


@pytest.mark.parametrize("count", [1, 2])
def test_a_curve_names_both_models_and_the_sizes_of_small_sets(tmp_path, count):
    sets = [SetCurve(f"set {n}", CROWDED, 80 + n) for n in range(count)]
    png, svg = draw_curve(tmp_path / "curve", sets, ALPHAS, 0.5, ("the first", "the second"))
    assert png.read_bytes().startswith(b"\x89PNG")
    drawn = svg.read_text()
    for text in ("alpha 0: the first", "alpha 1: the second", "best trade-off: alpha 0.5", "videos"):
        assert f"<!-- {text}" in drawn or text in drawn
