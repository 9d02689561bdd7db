"""Re-encoding a dataset for fast reading: every frame kept, smaller, with frequent keyframes."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import av
import numpy as np

from vactk.data.file_tree import FileTree
from vactk.data.isolated_read import read_each
from vactk.errors import VactkError
from vactk.files.atomic import atomic_path, remove_leftovers
from vactk.progress import Progress
from vactk.video.container import VideoError, VideoWarning, create_container, open_container, reason
from vactk.video.decoders import stored_size
from vactk.video.encode import H264Stream
from vactk.video.reader import open_video
from vactk.video.rgb import RGBConverter

MAX_COPIED_BYTES = 256 * 2**20  # larger files that are not videos are not copied


class Job(NamedTuple):
    """One video to re-encode."""

    source: Path
    target: Path


class Outcome(NamedTuple):
    """The result of re-encoding one video."""

    video: str
    outcome: str  # "converted", "existing", "partial" or "unreadable"
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Settings of the re-encoded H.264 videos."""

    short_side: int = 256  # pixels; smaller videos keep their size
    crf: int = 18  # constant rate factor: lower is better
    keyframe_every: int = 12  # frames


@dataclass(frozen=True)
class ConvertResult:
    """Counts of converted videos, and those that were not converted whole."""

    output: Path
    converted: int
    existing: int  # converted by an earlier run
    partial: dict[str, str] = field(default_factory=dict)  # {video: why only a part was converted}
    unreadable: dict[str, str] = field(default_factory=dict)  # {video: error}


class Converter:
    """Re-encodes videos by the index of their job."""

    def __init__(self, jobs: Sequence[Job], encoding: Encoding) -> None:
        self.jobs = jobs
        self.encoding = encoding

    def __getitem__(self, index: int) -> Outcome:
        job = self.jobs[index]
        if job.target.exists():
            return Outcome(str(job.source), "existing")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VideoWarning)  # part of the outcome
                warning = self._convert(job)
        except VideoError as error:
            return Outcome(str(job.source), "unreadable", str(error))
        return Outcome(str(job.source), "partial" if warning else "converted", warning or "")

    def failed(self, index: int, why: str) -> Outcome:
        """Return the outcome for a video whose decoder hung or crashed."""
        source = self.jobs[index].source
        return Outcome(str(source), "unreadable", str(VideoError(source, why)))

    def _convert(self, job: Job) -> str | None:
        """Write every frame at its time, upright; return a warning if only a part decodes."""
        encoding = self.encoding
        with open_video(job.source) as video:
            times_s, fps = video.times_s.numpy(), video.fps
            short_side = min(encoding.short_side, video.height, video.width)
            height, width = video.read([0], short_side=short_side).shape[-2:]
            warning = video.warning
        with atomic_path(job.target) as temporary, create_container(temporary) as output:
            stream = H264Stream(
                output, (height, width), fps=fps, crf=encoding.crf, keyframe_every=encoding.keyframe_every
            )
            for rgb, time_s in zip(_decode_all(job.source, short_side), times_s, strict=False):
                stream.add(rgb, time_s)
            stream.close()
        return warning


def convert(
    source: Path,
    output: Path,
    encoding: Encoding | None = None,
    *,
    workers: int,
    timeout_s: float = 600.0,
    progress: Progress | None = None,
) -> ConvertResult:
    """Re-encode all videos under `source` to MP4 under `output`, in the same folders; copy the other files.

    Existing videos are kept, so that the same call resumes an interrupted one. Raises VactkError where there are
    no videos, or two would get the same name.
    """
    tree = FileTree.scan(source, use_index=False)
    jobs = _plan(tree, source, output)
    for folder in {job.target.parent for job in jobs}:
        remove_leftovers(folder)
    _copy_others(tree, output)
    converter = Converter(jobs, encoding or Encoding())
    found: dict[str, dict[str, str]] = {"converted": {}, "existing": {}, "partial": {}, "unreadable": {}}
    for outcome in read_each(
        converter, range(len(jobs)), workers=workers, timeout_s=timeout_s, progress=progress
    ):
        found[outcome.outcome][outcome.video] = outcome.message
    return ConvertResult(
        output, len(found["converted"]), len(found["existing"]), found["partial"], found["unreadable"]
    )


def _plan(tree: FileTree, source: Path, output: Path) -> list[Job]:
    if not tree.videos:
        raise VactkError(f"there are no videos in '{source}'")
    if output.resolve().is_relative_to(source.resolve()):
        raise VactkError(f"'{output}' is inside '{source}'; choose another --output")
    jobs = [Job(source / name, output / PurePosixPath(name).with_suffix(".mp4")) for name in tree.videos]
    targets: dict[Path, Path] = {}
    for job in jobs:
        if job.target in targets:
            raise VactkError(f"'{targets[job.target]}' and '{job.source}' would both become '{job.target}'")
        targets[job.target] = job.source
    return jobs


def _decode_all(path: Path, short_side: int) -> Iterator[np.ndarray]:
    """Yield every frame of a sequential decode, upright and scaled, uint8 (H, W, 3)."""
    container, stream = open_container(path)
    with container:
        to_rgb = RGBConverter(stored_size(stream), short_side)
        try:
            for frame in container.decode(stream):
                yield to_rgb(frame)
        except (av.FFmpegError, OSError) as error:
            if not isinstance(error, av.FFmpegError):  # damage ends the video, a lost disk is an error
                raise VideoError(path, reason(error)) from error


def _copy_others(tree: FileTree, output: Path) -> None:
    for name in tree.others:
        source, target = tree.root / name, output / name
        if target.exists() or source.stat().st_size > MAX_COPIED_BYTES:
            continue
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
