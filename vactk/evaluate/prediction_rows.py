"""Turn the scores of an evaluation into the rows of predictions.csv."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vactk.data.records import Record
from vactk.evaluate.protocol_splits import ProtocolData, ProtocolSplit
from vactk.evaluate.results import Unreadable
from vactk.evaluate.scoring import Scores
from vactk.evaluate.zero_shot import Evaluated, split_probabilities
from vactk.report.predictions import TOP, Guess, PredictedVideo


def prediction_rows(
    evaluated: Evaluated, by: str = "similarity", unreadable: Unreadable = "wrong"
) -> Iterator[PredictedVideo]:
    """Yield a row for every video of every split and answer, those of the answer `by` first.

    Videos that could not be read have rows with their error, unless they are left out of the accuracy.
    """
    data, scores, _ = evaluated
    for split in data.splits:
        answers = split_probabilities(scores, split)
        for answer in sorted(answers, key=lambda name: name != by):
            yield from _rows(data, scores, split, answer, answers[answer], unreadable)


def _rows(
    data: ProtocolData,
    scores: Scores,
    split: ProtocolSplit,
    by: str,
    probabilities: Tensor,
    unreadable: Unreadable,
) -> Iterator[PredictedVideo]:
    places = {index: place for place, index in enumerate(scores.indices.tolist())}
    errors = {failure.record_index: failure.message for failure in scores.failures}
    labels = [data.videos.classes[number] for number in split.classes]
    for index in split.records:
        record = data.videos.records[index]
        assert record.label is not None  # `summarize` has seen to it
        row = PredictedVideo(
            split=split.name,
            by=by,
            num_classes=len(labels),
            video=listed_path(record),
            start_s=record.start_s,
            end_s=record.end_s,
            label=data.videos.classes[record.label],
            error=errors.get(index, ""),
        )
        if index in places:
            place = places[index]
            cosines = scores.similarities["cosine"][place, list(split.classes)]
            times_s = tuple(scores.times_s[place].tolist())
            yield _answered(replace(row, frames_s=times_s), labels, probabilities[place], cosines)
        elif unreadable == "wrong":
            yield row


def listed_path(record: Record) -> str:
    """Return the path of a record's video as predictions.csv has it."""
    return str(record.video.absolute())


def _answered(
    row: PredictedVideo, labels: Sequence[str], probabilities: Tensor, cosines: Tensor
) -> PredictedVideo:
    """Add the answer. probabilities (C,), cosines (C,)"""
    own = probabilities[labels.index(row.label)]
    best = torch.sort(probabilities, descending=True, stable=True).indices[:TOP].tolist()
    return replace(
        row,
        rank=int((probabilities >= own).sum()),  # as `topk_accuracy` counts
        label_probability=float(own),
        top=tuple(Guess(labels[i], float(probabilities[i]), float(cosines[i])) for i in best),
    )
