"""Checking every video of a dataset: unreadable, cut short, duplicated, or labelled against its name."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vactk.data.annotations.classes import match_key
from vactk.data.benchmarks import ALIASES, BENCHMARKS
from vactk.data.custom_dataset import is_custom_dataset, open_custom_dataset
from vactk.data.datasets import find_dataset
from vactk.data.isolated_read import read_each
from vactk.data.recordings import HMDB51_NAME, UCF101_NAME
from vactk.data.records import Record, VideoSet
from vactk.errors import VactkError
from vactk.files.atomic import write_json, write_text
from vactk.files.hashing import sha256
from vactk.files.text import read_lines
from vactk.progress import Progress
from vactk.video.container import VideoError, VideoWarning
from vactk.video.reader import Timeline, open_video
from vactk.video.sampling import uniform_segments

OUTCOMES = ("unreadable", "partial", "too short", "wrong length")
LENGTH_TOLERANCE_S = 1.0  # videos are trimmed at frames, and sound may run on
CHECKED_FRAMES = 8


class Finding(NamedTuple):
    """The result of checking one video."""

    record_index: int
    outcome: str  # "good", or one of OUTCOMES
    num_frames: int = 0
    length_s: float = 0.0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The result of checking a dataset. Videos are given by their paths."""

    num_videos: int
    good: int
    num_frames: int  # in all readable videos
    missing: list[str] = field(default_factory=list)
    problems: dict[str, dict[str, str]] = field(default_factory=dict)  # outcome -> {video: message}
    duplicates: list[list[str]] = field(default_factory=list)  # groups of files with the same content
    contradictions: list[Contradiction] = field(default_factory=list)
    listing: dict[str, Any] = field(default_factory=dict)  # `ListingReport.to_json`

    def excluded(self) -> list[str]:
        """Return the videos to leave out of training: unreadable, too short, and further copies of others."""
        bad = [video for name in ("unreadable", "too short") for video in self.problems.get(name, ())]
        return sorted({*bad, *(copy for group in self.duplicates for copy in group[1:])})

    def counts(self) -> dict[str, int]:
        """Return the number of videos per outcome."""
        return {
            "good": self.good,
            **{name: len(found) for name, found in self.problems.items()},
            "not on disk": len(self.missing),
            "duplicates": sum(len(group) - 1 for group in self.duplicates),
            "named as another class": len(self.contradictions),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        report = asdict(self)
        report["contradictions"] = [
            {"video": str(c.video), "listed": c.listed, "named": c.named} for c in self.contradictions
        ]
        return report


class VideoChecker:
    """Checks records by index."""

    def __init__(self, records: Sequence[Record], *, min_frames: int, whole: bool) -> None:
        self.records = records
        self.min_frames = min_frames
        self.whole = whole

    def __getitem__(self, index: int) -> Finding:
        record = self.records[index]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VideoWarning)  # part of the finding
                return self._check(index, record)
        except VideoError as error:
            return Finding(index, "unreadable", message=str(error))

    def failed(self, index: int, reason: str) -> Finding:
        """Return the finding for a video whose decoder hung or crashed."""
        return Finding(index, "unreadable", message=str(VideoError(self.records[index].video, reason)))

    def _check(self, index: int, record: Record) -> Finding:
        counts = []

        def sampler(timeline: Timeline) -> Any:
            counts.append(timeline.num_frames)
            return uniform_segments(timeline.num_frames, CHECKED_FRAMES)

        with open_video(record.video) as video:
            sample = video.sample(sampler, start_s=record.start_s, end_s=record.end_s)
            if self.whole:
                for start in range(0, video.num_frames, 32):
                    video.read(list(range(start, min(start + 32, video.num_frames))), short_side=32)
            length_s = float(video.times_s[-1]) + 1 / video.fps
            warning, num_frames = video.warning or sample.warning, counts[-1]
        found = (num_frames, length_s)
        if warning is not None:
            return Finding(index, "partial", *found, warning)
        if num_frames < self.min_frames:
            return Finding(index, "too short", *found, f"{num_frames} frames, fewer than {self.min_frames}")
        expected_s = record.length_s if record.end_s is None else record.end_s
        off_s = 0.0 if expected_s is None else length_s - expected_s
        if abs(off_s) > LENGTH_TOLERANCE_S and (record.end_s is None or off_s < 0):
            return Finding(index, "wrong length", *found, f"{length_s:.2f} s, listed: {expected_s:.2f} s")
        return Finding(index, "good", *found)


def load_for_check(source: str, split: str | None, root: Path | None) -> VideoSet:
    """Load a split of a dataset, by default all that is listed; files may be missing. Raises VactkError."""
    name = ALIASES.get(source.lower(), source)
    if name in BENCHMARKS:
        found = BENCHMARKS[name].open(root)
        splits = found.annotations.splits
        default = next((union for union in ("all", "full") if union in splits), next(iter(splits)))
        return BENCHMARKS[name].read(found, split or default, strict=False)
    if is_custom_dataset(source):
        return open_custom_dataset(Path(source)).load(split or "all", root=root, strict=False)
    dataset = find_dataset(source)
    return dataset.load(split or dataset.test_split, root=root)


def check_videos(
    videos: VideoSet,
    *,
    workers: int,
    timeout_s: float = 120.0,
    min_frames: int = CHECKED_FRAMES,
    whole: bool = False,
    progress: Progress | None = None,
) -> CheckReport:
    """Open every video, decode evenly spaced frames (with `whole`, all), and compare it with its list.

    Duplicates are files of the same size and SHA-256.
    """
    present = [index for index in range(len(videos.records)) if index not in videos.missing]
    checker = VideoChecker(videos.records, min_frames=min_frames, whole=whole)
    findings = list(read_each(checker, present, workers=workers, timeout_s=timeout_s, progress=progress))
    problems: dict[str, dict[str, str]] = {outcome: {} for outcome in OUTCOMES}
    for finding in findings:
        if finding.outcome != "good":
            problems[finding.outcome][str(videos.records[finding.record_index].video)] = finding.message
    return CheckReport(
        num_videos=len(videos.records),
        good=sum(finding.outcome == "good" for finding in findings),
        num_frames=sum(finding.num_frames for finding in findings),
        missing=[str(videos.records[index].video) for index in sorted(videos.missing)],
        problems={outcome: found for outcome, found in problems.items() if found},
        duplicates=find_duplicates([videos.records[index].video for index in present]),
        contradictions=contradictions(videos),
        listing=videos.report.to_json() if videos.report else {},
    )


def find_duplicates(paths: Collection[Path]) -> list[list[str]]:
    """Return groups of files with the same content; empty files do not count."""
    by_size: dict[int, list[Path]] = {}
    for path in sorted(set(paths)):
        try:
            by_size.setdefault(path.stat().st_size, []).append(path)
        except OSError:
            continue
    groups: dict[str, list[str]] = {}
    for size, same in by_size.items():
        for path in same if size and len(same) > 1 else ():
            with contextlib.suppress(VactkError):  # unreadable, which is a finding of its own
                groups.setdefault(sha256(path), []).append(str(path))
    return [group for group in groups.values() if len(group) > 1]


def write_report(report: CheckReport, path: Path, exclude: Path) -> None:
    """Write the report as JSON, and the videos to leave out of training, a path per line."""
    write_json(path, report.to_json())
    write_text(exclude, "".join(f"{video}\n" for video in report.excluded()))


def read_excluded(path: Path) -> set[Path]:
    """Read a list of videos to leave out, a path per line."""
    return {Path(line) for _, line in read_lines(path)}


class Contradiction(NamedTuple):
    """A video whose name contradicts its listed class."""

    video: Path
    listed: str
    named: str


def contradictions(videos: VideoSet) -> list[Contradiction]:
    """Return the labelled videos whose file name or folder is that of another class."""
    by_key = {match_key(label): label for label in videos.classes}
    found = []
    for record in videos.records:
        if record.label is None:
            continue
        listed = videos.classes[record.label]
        named = _named_class(record, by_key)
        if named is not None and named != listed:
            found.append(Contradiction(record.video, listed, named))
    return found


def _named_class(record: Record, by_key: dict[str, str]) -> str | None:
    name = record.name or record.video.stem
    ucf101 = UCF101_NAME.fullmatch(name)
    if ucf101:
        return by_key.get(match_key(ucf101["label"]))
    hmdb51 = HMDB51_NAME.fullmatch(name)
    if hmdb51:
        words = hmdb51["recording"].split("_")
        counts = range(len(words), 0, -1)  # the longest first: kick_ball, ball
        ends = ("".join(words[-count:]) for count in counts)
        return next((by_key[match_key(end)] for end in ends if match_key(end) in by_key), None)
    return by_key.get(match_key(record.video.parent.name))
