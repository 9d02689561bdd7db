"""The videos of a run: those it trains on, those held out of them, and those of its final evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vactk.data.class_subsets import hold_out, recordings_of, sample_shots
from vactk.data.datasets import Dataset, find_dataset
from vactk.data.records import VideoSet
from vactk.data.tools.check import read_excluded
from vactk.errors import VactkError
from vactk.evaluate.protocol_splits import content_hash
from vactk.evaluate.zero_shot import check_missing
from vactk.progress import Reporter
from vactk.text.descriptions import refuse_all_the_same
from vactk.train.batch_feed import drawn_equally
from vactk.train.recipe import Recipe
from vactk.train.run_warnings import class_warnings, overlap_warnings, split_warnings


@dataclass(frozen=True)
class RunVideos:
    """The videos of a run, by what they are for."""

    train: VideoSet
    held_out: VideoSet | None  # of the training videos, or the dataset's own validation split
    test: list[VideoSet]  # of the final evaluation
    during: list[VideoSet]  # of the evaluations during training
    warnings: list[str] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """Return what each set is used for, under the keys that scripts rely on."""
        return {
            "trained": _describe(self.train),
            "held_out": None if self.held_out is None else _describe(self.held_out),
            "tested": [_describe(videos) for videos in self.test],
        }


def _describe(videos: VideoSet) -> dict[str, Any]:
    return {
        "split": f"{videos.name}/{videos.split}",
        "num_videos": len(videos.records),
        "hash": content_hash(videos),
    }


def load_run_videos(recipe: Recipe, reporter: Reporter, origin: str = "") -> RunVideos:
    """Load the dataset's splits by what they are for. Raises VactkError where they cannot be trained on.

    The first line shown says where the recipe comes from, by `origin`, and how many videos there are for what.
    """
    dataset = find_dataset(recipe.dataset)
    root = Path(recipe.data_root) if recipe.data_root else None
    validation = (dataset.validation_split,) if recipe.held_out and dataset.validation_split else ()
    splits = []
    for split in (dataset.train_split, *dataset.eval_splits, *validation):
        videos = dataset.load(split, root=root, progress=reporter.progress(f"{recipe.dataset}: videos"))
        splits.append(videos if recipe.task.needs_classes else videos.without_labels())
    train, *test = splits
    held_out = test.pop().present() if validation else None
    if not recipe.task.needs_classes:
        _check_apart(train, test)
    lines = [f"{s.name}, {s.split}: {line}" for s in splits if s.report for line in s.report.lines()]
    train = training_videos(recipe, train, lines.append)
    if recipe.held_out and held_out is None:
        train, held_out = hold_out(train, recipe.held_out, recipe.run.seed)
    if recipe.held_out and not recipe.task.needs_classes:
        _check_enough(train)
    if held_out is not None and not held_out.records:
        lines.append(
            "no validation: each class has too few videos to hold some out, so the last weights are kept"
        )
        held_out = None
    during = test if not recipe.held_out else [] if held_out is None else [held_out]
    found = RunVideos(train, held_out, test, during)
    if dataset.own and recipe.task.needs_classes:
        found = replace(found, warnings=_warnings(recipe, found))
    for line in (_use(found, dataset, origin), *lines, *(f"warning: {text}" for text in found.warnings)):
        reporter.message(line)
    return found


def _use(videos: RunVideos, dataset: Dataset, origin: str) -> str:
    """Say where the recipe comes from, and how many videos are there for what."""
    train, held_out = videos.train, videos.held_out
    whole = len(train.records) + sum(
        len(s.records) for s in (*videos.test, *([held_out] if held_out else []))
    )
    classes = f", {len(train.classes)} classes" if train.classes else ""
    uses = [f"{len(train.records):,} to train on"]
    if held_out is not None:
        both = replace(train, records=(*train.records, *held_out.records))
        num_recordings = len(set(recordings_of(both)))
        pieces = f" (whole recordings, of {num_recordings:,})" if num_recordings < len(both.records) else ""
        uses.append(f"{len(held_out.records):,} held out for validation{pieces}")
    for split in videos.test:
        of = ", a fifth of each class" if dataset.derived else ""
        uses.append(f"{len(split.records):,} for the test at the end ({split.split}{of})")
    start = f"{origin}: " if origin else ""
    return f"{start}{whole:,} videos{classes}: {'; '.join(uses)}"


def _warnings(recipe: Recipe, videos: RunVideos) -> list[str]:
    """Return what the user's own videos lack, as far as it is known before training."""
    balanced = drawn_equally(videos.train.records, recipe.run.balance) is not None
    held_out = [videos.held_out] if videos.held_out else []
    others = [*videos.test, *held_out]
    found = [] if recipe.shots else class_warnings(videos.train, balanced=balanced)
    found += overlap_warnings(videos.train, others)
    found += [text for one in held_out for text in overlap_warnings(one, videos.test)]  # it chose the weights
    return [*found, *split_warnings([videos.train, *others])]


def training_videos(recipe: Recipe, videos: VideoSet, message: Callable[[str], None]) -> VideoSet:
    """Return the videos that are on disk, not excluded, and captioned where captions are trained on.

    With classes, as many of each as the recipe asks for. `message` shows how many have no caption.
    """
    check_missing(videos, recipe.run.max_failed, "run.max_failed")
    videos = videos.present(read_excluded(Path(recipe.data.exclude)) if recipe.data.exclude else set())
    if recipe.task.captions:
        videos = _captioned(videos, message)
    if not recipe.task.needs_classes:
        _check_enough(videos)
        return videos
    if len(videos.classes) < 2:
        raise VactkError(
            f"{videos.name}/{videos.split} has one class, '{videos.classes[0]}': training needs at least two, such "
            "as a second one of videos that do not show it"
        )
    return sample_shots(videos, recipe.shots, recipe.run.seed) if recipe.shots else videos


def _captioned(videos: VideoSet, message: Callable[[str], None]) -> VideoSet:
    """Return the videos that have captions, without blank ones."""
    where = f"{videos.name}/{videos.split}"
    own = [tuple(text for text in record.captions if text.strip()) for record in videos.records]
    if not any(own):
        raise VactkError(f"{where} has no captions to train on: a list needs a column named caption")
    refuse_all_the_same(own, "caption")
    bare = [record for record, captions in zip(videos.records, own, strict=True) if not captions]
    if bare:
        num_videos = len(videos.records)
        message(
            f"{len(bare):,} of {num_videos:,} videos of {where} have no caption, such as '{bare[0].video}': "
            "they are left out"
        )
    kept = zip(videos.records, own, strict=True)
    records = tuple(replace(record, captions=captions) for record, captions in kept if captions)
    return replace(videos, records=records)


def _check_apart(train: VideoSet, test: list[VideoSet]) -> None:
    """Raise VactkError where a training video is in a test split too."""
    trained = {record.video for record in train.records}
    for videos in test:
        shared = sorted({str(record.video) for record in videos.records if record.video in trained})
        if shared:
            raise VactkError(
                f"{len(shared):,} videos are both in {train.name}/{train.split} and in {videos.split}, such as "
                f"'{shared[0]}': remove them from the training list"
            )


def _check_enough(videos: VideoSet) -> None:
    """Raise VactkError where there is nothing to contrast a video with."""
    if len(videos.records) < 2:
        raise VactkError(
            f"{videos.name}/{videos.split} has {len(videos.records)} videos to train on: pairs need at least two"
        )
