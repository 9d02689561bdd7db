"""The videos of a run: those it trains on, those held out of them, and those of its final evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vactk.data.class_subsets import hold_out, sample_shots
from vactk.data.datasets import find_dataset
from vactk.data.records import VideoSet
from vactk.data.tools.check import read_excluded
from vactk.errors import VactkError
from vactk.evaluate.protocol_splits import content_hash
from vactk.evaluate.zero_shot import check_missing
from vactk.progress import Reporter
from vactk.text.descriptions import refuse_all_the_same
from vactk.train.recipe import Recipe


@dataclass(frozen=True)
class RunVideos:
    """The videos of a run, by what they are for."""

    train: VideoSet
    held_out: VideoSet | None  # of the training videos
    test: list[VideoSet]  # of the final evaluation

    @property
    def during(self) -> list[VideoSet]:
        """Those of the evaluations during training."""
        return self.test if self.held_out is None else [self.held_out]

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


def load_run_videos(recipe: Recipe, reporter: Reporter) -> RunVideos:
    """Load the dataset's training split and test splits. Raises VactkError where they cannot be trained on."""
    dataset = find_dataset(recipe.dataset)
    root = Path(recipe.data_root) if recipe.data_root else None
    splits = []
    for split in (dataset.train_split, *dataset.eval_splits):
        videos = dataset.load(split, root=root, progress=reporter.progress(f"{recipe.dataset}: videos"))
        splits.append(videos if recipe.task.needs_classes else videos.without_labels())
    for videos in splits:
        for line in videos.report.lines() if videos.report else ():
            reporter.message(f"{videos.name}, {videos.split}: {line}")
    train, *test = splits
    if not recipe.task.needs_classes:
        _check_apart(train, test)
    train = training_videos(recipe, train, reporter.message)
    if not recipe.held_out:
        return RunVideos(train, None, test)
    train, held_out = hold_out(train, recipe.held_out, recipe.run.seed)
    _check_enough(train)
    return RunVideos(train, held_out, test)


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
            f"{videos.name}/{videos.split} has one class, '{videos.classes[0]}': training needs at least two"
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
    records = tuple(dataclasses.replace(record, captions=captions) for record, captions in kept if captions)
    return dataclasses.replace(videos, records=records)


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
