"""Re-encodes a dataset for fast reading: every frame kept, smaller, in files that can be read from anywhere."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import av
import numpy as np

from vactk.data.tree import Tree
from vactk.data.workers import BatchReader
from vactk.errors import VactkError
from vactk.video.container import VideoError, VideoWarning, create_container, open_container, reason
from vactk.video.encode import H264Stream
from vactk.video.pictures import RGBConverter
from vactk.video.read import open_video
from vactk.video.sources import stored_size
from vactk.weights.atomic import atomic_path, remove_leftovers

Progress = Callable[[int, int], None]
LARGEST_OTHER = 256 * 2**20  # bytes of a file that is no video, such as an annotation file, to be copied


class Job(NamedTuple):
    """One video to re-encode."""

    source: Path
    target: Path


class Outcome(NamedTuple):
    """What became of it."""

    video: str
    outcome: str  # "converted", "there", "partial" or "unreadable"
    message: str = ""


@dataclass(frozen=True)
class ConvertResult:
    """What became of a dataset."""

    output: Path
    converted: int
    there: int  # from an earlier run
    partial: dict[str, str] = field(default_factory=dict)  # converted as far as they go
    unreadable: dict[str, str] = field(default_factory=dict)


class Converter:
    """Re-encodes videos by their place among the jobs."""

    def __init__(self, jobs: Sequence[Job], *, short_side: int, crf: int, keyframe_every: int) -> None:
        self.jobs = jobs
        self.short_side = short_side
        self.crf = crf
        self.keyframe_every = keyframe_every

    def __getitem__(self, place: int) -> Outcome:
        job = self.jobs[place]
        if job.target.exists():
            return Outcome(str(job.source), "there")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VideoWarning)  # it is in the outcome
                warning = self._convert(job)
        except VideoError as error:
            return Outcome(str(job.source), "unreadable", str(error))
        return Outcome(str(job.source), "partial" if warning else "converted", warning or "")

    def failed(self, place: int, why: str) -> Outcome:
        """A video whose decoder hung or crashed."""
        source = self.jobs[place].source
        return Outcome(str(source), "unreadable", str(VideoError(source, why)))

    def _convert(self, job: Job) -> str | None:
        """Every frame at its time, upright. What was wrong, if only a part decodes."""
        with open_video(job.source) as video:
            times_s, fps = video.times_s.numpy(), video.fps
            short_side = min(self.short_side, video.height, video.width)
            height, width = video.read([0], short_side=short_side).shape[-2:]
            warning = video.warning
        with atomic_path(job.target) as temporary, create_container(temporary) as output:
            stream = H264Stream(
                output, height, width, fps=fps, crf=self.crf, keyframe_every=self.keyframe_every
            )
            for rgb, time_s in zip(_pictures(job.source, short_side), times_s, strict=False):
                stream.add(rgb, time_s)
            stream.close()
        return warning


def convert(
    source: Path,
    output: Path,
    *,
    short_side: int = 256,
    crf: int = 18,
    keyframe_every: int = 12,
    workers: int,
    timeout_s: float = 600.0,
    progress: Progress | None = None,
) -> ConvertResult:
    """All videos under `source` as H.264 in MP4 under `output`, in the same folders, and the other files copied.

    Videos that are there already are kept: the same call goes on where it was interrupted. Raises VactkError
    where two videos would get one name.
    """
    tree = Tree.scan(source, use_index=False)
    if not tree.videos:
        raise VactkError(f"there are no videos in '{source}'")
    if output.resolve().is_relative_to(source.resolve()):
        raise VactkError(f"'{output}' lies in '{source}': choose another --output")
    jobs = [Job(source / name, output / PurePosixPath(name).with_suffix(".mp4")) for name in tree.videos]
    targets: dict[Path, Path] = {}
    for job in jobs:
        if job.target in targets:
            raise VactkError(f"'{targets[job.target]}' and '{job.source}' would both become '{job.target}'")
        targets[job.target] = job.source
    for folder in {job.target.parent for job in jobs}:
        remove_leftovers(folder)
    _copy_others(tree, output)
    converter = Converter(jobs, short_side=short_side, crf=crf, keyframe_every=keyframe_every)
    found: dict[str, dict[str, str]] = {"converted": {}, "there": {}, "partial": {}, "unreadable": {}}
    reader = BatchReader(
        converter, [[place] for place in range(len(jobs))], _first, workers=workers, timeout_s=timeout_s
    )
    for done, outcome in enumerate(reader, 1):
        found[outcome.outcome][outcome.video] = outcome.message
        if progress is not None:
            progress(done, len(jobs))
    return ConvertResult(
        output, len(found["converted"]), len(found["there"]), found["partial"], found["unreadable"]
    )


def _pictures(path: Path, short_side: int) -> Iterator[np.ndarray]:
    """Every picture of a sequential decode, upright and scaled, uint8 (H, W, 3)."""
    container, stream = open_container(path)
    with container:
        to_rgb = RGBConverter(stored_size(stream), short_side)
        try:
            for picture in container.decode(stream):
                yield to_rgb(picture)
        except (av.FFmpegError, OSError) as error:
            if not isinstance(
                error, av.FFmpegError
            ):  # damage ends the video where it is; a lost disk does not
                raise VideoError(path, reason(error)) from error


def _copy_others(tree: Tree, output: Path) -> None:
    for name in tree.others:
        source, target = tree.root / name, output / name
        if target.exists() or source.stat().st_size > LARGEST_OTHER:
            continue
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def _first(outcomes: list[Outcome]) -> Outcome:
    return outcomes[0]
