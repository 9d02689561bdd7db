"""Several runs side by side, on the videos that they have in common."""

from __future__ import annotations

from collections.abc import Sequence

from vactk.errors import VactkError
from vactk.report.figures import Figures, class_counts
from vactk.report.predictions import PredictedVideo, VideoKey, first_answers
from vactk.report.run_folder import RunFolder
from vactk.report.statistics import mcnemar

SHOWN_CLASSES = 20


def compare_runs(names: Sequence[str], runs: Sequence[RunFolder]) -> list[Figures]:
    """Compare every run with the first, on each split that both have; the classifier asked for answers.

    Raises VactkError where two runs have no video in common, or it has other labels.
    """
    return [
        {"run": name, **found}
        for name, other in zip(names[1:], runs[1:], strict=True)
        for found in _compare(runs[0], other)
    ]


def run_names(runs: Sequence[RunFolder]) -> list[str]:
    """Return the folders' names, or their paths where two names are the same."""
    names = [run.name for run in runs]
    return names if len({*names}) == len(names) else [str(run.path) for run in runs]


def _compare(first: RunFolder, other: RunFolder) -> list[Figures]:
    ours, theirs = first_answers(first.rows), first_answers(other.rows)
    found = []
    for split in (split for split in ours if split in theirs):
        keyed: list[dict[VideoKey, PredictedVideo]] = [
            {row.key: row for row in side[split]} for side in (ours, theirs)
        ]
        common = [key for key in keyed[0] if key in keyed[1]]
        if common:
            pairs = [(keyed[0][key], keyed[1][key]) for key in common]
            left_out = len(keyed[0]) + len(keyed[1]) - 2 * len(common)
            found.append(_figures(split, pairs, left_out, str(other.path)))
    if not found:
        ours_at, theirs_at = (f"{run.rows[0].split}, '{run.rows[0].video}'" for run in (first, other))
        raise VactkError(
            f"'{first.path}' and '{other.path}' have no video in common: one has {ours_at}, the other {theirs_at}; "
            "compare runs that were evaluated on the same split of the same files"
        )
    return found


def _figures(
    split: str, pairs: Sequence[tuple[PredictedVideo, PredictedVideo]], left_out: int, other: str
) -> Figures:
    for one, two in pairs:
        if one.label != two.label:
            raise VactkError(
                f"'{one.video}' is labelled '{one.label}' in one run and '{two.label}' in '{other}': they "
                "cannot be compared"
            )
    first, second = [one for one, _ in pairs], [two for _, two in pairs]
    only_first = sum(one.within(1) and not two.within(1) for one, two in pairs)
    only_second = sum(two.within(1) and not one.within(1) for one, two in pairs)
    return {
        "split": split,
        "num_videos": len(pairs),
        "num_left_out": left_out,
        "top1": [100 * sum(row.within(1) for row in side) / len(pairs) for side in (first, second)],
        "only_first": only_first,
        "only_second": only_second,
        "p": mcnemar(only_first, only_second),
        "num_classes": [side[0].num_classes for side in (first, second)],
        "classes": _class_differences(first, second),
    }


def _class_differences(first: Sequence[PredictedVideo], second: Sequence[PredictedVideo]) -> list[Figures]:
    """Return the classes whose accuracies differ the most."""
    theirs = class_counts(second)
    counts = [
        (label, total, right, theirs[label][0]) for label, (right, total) in class_counts(first).items()
    ]
    differing = [one for one in counts if one[2] != one[3]]
    differing.sort(key=lambda one: (-abs(one[3] - one[2]) / one[1], one[0]))
    return [
        {
            "label": label,
            "num_videos": total,
            "right": [ours, other],
            "difference": 100 * (other - ours) / total,
        }
        for label, total, ours, other in differing[:SHOWN_CLASSES]
    ]
