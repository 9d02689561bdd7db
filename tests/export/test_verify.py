from __future__ import annotations

import pytest
import torch

from vactk.errors import VactkError
from vactk.export.verify import Case, max_difference, open_file, refuse_wrong

CASES = [Case("random", torch.ones(2, 3)), Case("real", torch.full((2, 3), 50.0))]


def reference(value):
    return (value, 2 * value)


def test_the_largest_difference_of_every_kind_and_output():
    found = max_difference(reference, lambda x: (x, 2 * x + 0.01 * x[:1].abs().max()), CASES, "it")
    assert found.absolute["random"] == pytest.approx(0.01, rel=1e-4)
    assert found.absolute["real"] == pytest.approx(0.5, rel=1e-4)
    assert found.largest == pytest.approx(0.5, rel=1e-4)
    assert found.relative == pytest.approx(0.005, rel=1e-3)  # of 2 and of 100


def test_a_difference_above_the_tolerance_is_refused():
    found = max_difference(reference, lambda x: (x, 2 * x + 0.1), CASES[:1], "classifier.onnx")
    refuse_wrong(found, 0.06, "classifier.onnx")
    with pytest.raises(VactkError, match=r"classifier.onnx differs from the model by 0.05, more than 0.04"):
        refuse_wrong(found, 0.04, "classifier.onnx")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda x: (x, x[:1]), r"gives \(1, 3\) for an input of 2x3, the model \(2, 3\)"),
        (lambda x: (x, 2 * x * float("nan")), "gives NaN for an input"),
        (lambda x: 1 / 0, "cannot be run on an input of 2x3: division by zero"),
    ],
)
def test_what_is_no_result_is_refused(run, message):
    with pytest.raises(VactkError, match=message):
        max_difference(reference, run, CASES, "a.onnx")


def test_infinite_differences_are_never_within_a_tolerance():
    found = max_difference(reference, lambda x: (x, x + float("inf")), CASES, "it")
    with pytest.raises(VactkError, match="differs from the model by inf"):
        refuse_wrong(found, 1e9, "it")


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(VactkError, match="it cannot be opened"):
        open_file(torch.load, tmp_path / "a", "it")
