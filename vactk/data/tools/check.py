"""Opens every video of a dataset, in parallel, and reports what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vactk.data.annotations.classes import match_key
from vactk.data.records import Record, VideoSet
from vactk.data.worker_pool import BatchLoader
from vactk.files.atomic import write_text
from vactk.files.text import read_lines
from vactk.progress import Progress
from vactk.video.container import VideoError, VideoWarning
from vactk.video.reader import Timeline, open_video
from vactk.video.sampling import uniform_segments

OUTCOMES = ("unreadable", "partial", "too short", "wrong length")
LENGTH_TOLERANCE_S = 1.0  # cuts are made at frames, and sound may run on
CHECKED_FRAMES = 8


class Finding(NamedTuple):
    """One video as it was found."""

    place: int  # in the records
    outcome: str  # "good", or one of OUTCOMES
    num_frames: int = 0
    length_s: float = 0.0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What is wrong with a dataset. Videos are given by their paths."""

    num_videos: int
    good: int
    num_frames: int  # of all readable videos
    missing: list[str] = field(default_factory=list)
    problems: dict[str, dict[str, str]] = field(default_factory=dict)  # outcome -> {video: what was found}
    duplicates: list[list[str]] = field(default_factory=list)  # groups of files with the same content
    contradictions: list[Contradiction] = field(default_factory=list)
    listing: dict[str, Any] = field(default_factory=dict)  # what is wrong with the list itself

    def excluded(self) -> list[str]:
        """Videos that are no use for training: unreadable, too short, and further copies of others."""
        bad = [video for name in ("unreadable", "too short") for video in self.problems.get(name, ())]
        return sorted({*bad, *(copy for group in self.duplicates for copy in group[1:])})

    def to_json(self) -> dict[str, Any]:
        """The report as `vactk data check` writes it."""
        report = asdict(self)
        report["contradictions"] = [
            {"video": str(c.video), "listed": c.listed, "named": c.named} for c in self.contradictions
        ]
        return report


class VideoChecker:
    """Checks records by their place."""

    def __init__(self, records: Sequence[Record], *, min_frames: int, whole: bool) -> None:
        self.records = records
        self.min_frames = min_frames
        self.whole = whole

    def __getitem__(self, place: int) -> Finding:
        record = self.records[place]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VideoWarning)  # it is in the finding
                return self._check(place, record)
        except VideoError as error:
            return Finding(place, "unreadable", message=str(error))

    def failed(self, place: int, reason: str) -> Finding:
        """A video whose decoder hung or crashed."""
        return Finding(place, "unreadable", message=str(VideoError(self.records[place].video, reason)))

    def _check(self, place: int, record: Record) -> Finding:
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
            return Finding(place, "partial", *found, warning)
        if num_frames < self.min_frames:
            return Finding(place, "too short", *found, f"{num_frames} frames, fewer than {self.min_frames}")
        expected_s = record.length_s if record.end_s is None else record.end_s
        off_s = 0.0 if expected_s is None else length_s - expected_s
        if abs(off_s) > LENGTH_TOLERANCE_S and (record.end_s is None or off_s < 0):
            return Finding(place, "wrong length", *found, f"{length_s:.2f} s, listed: {expected_s:.2f} s")
        return Finding(place, "good", *found)


def check_videos(
    videos: VideoSet,
    *,
    workers: int,
    timeout_s: float = 120.0,
    min_frames: int = CHECKED_FRAMES,
    whole: bool = False,
    progress: Progress | None = None,
) -> CheckReport:
    """Open every video, read frames all over it (with `whole`, all), and compare it with its list.

    Files are compared by the hash of their content where their sizes are equal.
    """
    places = [place for place in range(len(videos.records)) if place not in videos.missing]
    checker = VideoChecker(videos.records, min_frames=min_frames, whole=whole)
    reader = BatchLoader(checker, [[place] for place in places], _first, workers=workers, timeout_s=timeout_s)
    findings = []
    for finding in reader:
        findings.append(finding)
        if progress is not None:
            progress(len(findings), len(places))
    problems: dict[str, dict[str, str]] = {outcome: {} for outcome in OUTCOMES}
    for finding in findings:
        if finding.outcome != "good":
            problems[finding.outcome][str(videos.records[finding.place].video)] = finding.message
    return CheckReport(
        num_videos=len(videos.records),
        good=sum(finding.outcome == "good" for finding in findings),
        num_frames=sum(finding.num_frames for finding in findings),
        missing=[str(videos.records[place].video) for place in sorted(videos.missing)],
        problems={outcome: found for outcome, found in problems.items() if found},
        duplicates=find_duplicates([videos.records[place].video for place in places]),
        contradictions=contradictions(videos),
        listing=videos.report.to_json() if videos.report else {},
    )


def find_duplicates(paths: Collection[Path]) -> list[list[str]]:
    """Groups of different files that hold the same bytes; empty files are no copies of each other."""
    by_size: dict[int, list[Path]] = {}
    for path in sorted(set(paths)):
        try:
            by_size.setdefault(path.stat().st_size, []).append(path)
        except OSError:
            continue
    groups: dict[str, list[str]] = {}
    for size, same in by_size.items():
        for path in same if size and len(same) > 1 else ():
            groups.setdefault(_content(path), []).append(str(path))
    return [group for group in groups.values() if len(group) > 1]


def write_report(report: CheckReport, path: Path, exclude: Path) -> None:
    """The report as JSON, and the videos to leave out of training, a path a line."""
    write_text(path, json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n")
    write_text(exclude, "".join(f"{video}\n" for video in report.excluded()))


def read_excluded(path: Path) -> set[Path]:
    """The videos of such a list."""
    return {Path(line) for _, line in read_lines(path)}


def _content(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _first(findings: list[Finding]) -> Finding:
    return findings[0]


# HMDB51: film_CLASS_body_camera_people_view_quality_number; UCF101: v_CLASS_group_clip
HMDB51_NAME = re.compile(r"(?P<start>.+)_[fhlu]_[cn]m_np\d+_(fr|ba|le|ri)_(goo|med|bad)_\d+", re.IGNORECASE)
UCF101_NAME = re.compile(r"v_(?P<label>.+)_g\d+_c\d+", re.IGNORECASE)


class Contradiction(NamedTuple):
    """A video whose name tells of another class than its list."""

    video: Path
    listed: str
    named: str


def contradictions(videos: VideoSet) -> list[Contradiction]:
    """The labelled videos whose file name or folder is that of another class. Names that tell nothing pass."""
    return list(_contradictions(videos))


def _contradictions(videos: VideoSet) -> Iterator[Contradiction]:
    by_key = {match_key(label): label for label in videos.classes}
    for record in videos.records:
        if record.label is None:
            continue
        listed = videos.classes[record.label]
        named = _named_class(record, by_key)
        if named is not None and named != listed:
            yield Contradiction(record.video, listed, named)


def _named_class(record: Record, by_key: dict[str, str]) -> str | None:
    name = record.name or record.video.stem
    ucf101 = UCF101_NAME.fullmatch(name)
    if ucf101:
        return by_key.get(match_key(ucf101["label"]))
    hmdb51 = HMDB51_NAME.fullmatch(name)
    if hmdb51:
        words = hmdb51["start"].split("_")
        ends = (
            "".join(words[-count:]) for count in range(len(words), 0, -1)
        )  # the longest first: kick_ball, ball
        return next((by_key[match_key(end)] for end in ends if match_key(end) in by_key), None)
    return by_key.get(match_key(record.video.parent.name))
