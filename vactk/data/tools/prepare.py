"""Preparing a benchmark from its downloaded archives: unpack, check counts, write the record file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vactk.data.benchmarks import Benchmark, OpenedBenchmark
from vactk.data.file_tree import INDEX_NAME, FileTree
from vactk.data.locations import data_locations
from vactk.data.records import VideoSet
from vactk.data.tools.unpack import archive_name, find_archives, unpack
from vactk.errors import VactkError
from vactk.files.atomic import write_json, write_text
from vactk.progress import Progress

RECORDS_NAME = "vactk-records.jsonl"


@dataclass(frozen=True, kw_only=True)
class SplitStatus:
    """Counts of the videos of a split."""

    listed: int
    on_disk: int
    published: int | None  # None: unknown


@dataclass(frozen=True, kw_only=True)
class BenchmarkStatus:
    """A benchmark on disk, and how complete it is."""

    root: Path
    num_files: int  # videos, listed or not
    num_classes: int
    splits: dict[str, SplitStatus]
    problems: tuple[str, ...] = ()
    unpacked: tuple[str, ...] = field(default=())

    @property
    def complete(self) -> bool:
        """Whether every listed video is on disk and every count is the published one."""
        return all(
            split.listed == split.on_disk and split.published in (None, split.listed)
            for split in self.splits.values()
        )

    @property
    def records(self) -> Path:
        """The record file that `prepare` writes."""
        return self.root / RECORDS_NAME

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        return {
            "root": str(self.root),
            "complete": self.complete,
            "num_files": self.num_files,
            "num_classes": self.num_classes,
            "splits": {name: vars(split) for name, split in self.splits.items()},
            "problems": list(self.problems),
            "unpacked": list(self.unpacked),
        }


def prepare(
    benchmark: Benchmark, root: Path | None = None, progress: Progress | None = None
) -> BenchmarkStatus:
    """Unpack the archives in the benchmark's folder, count its videos, and write the record and index files.

    Nothing is downloaded. Raises VactkError, which says what to fetch, where annotations or videos are missing.
    """
    folder = _folder(benchmark, root)
    archives = [] if _is_complete(benchmark, folder) else find_archives(folder)
    unpacked = []
    for done, archive in enumerate(archives):
        if progress is not None:
            progress(done, len(archives))
        target = folder / archive_name(archive)
        if not target.exists():
            unpack(archive, target)
            unpacked.append(archive[0].name)
    tree = FileTree.scan(folder, use_index=False)
    (folder / INDEX_NAME).unlink(missing_ok=True)
    found = benchmark.open(folder)
    splits = {split: benchmark.read(found, split) for split in found.annotations.splits}
    _write_records(folder / RECORDS_NAME, splits, folder)
    write_json(folder / INDEX_NAME, tree.to_json(), indent=0)
    return _status(benchmark, OpenedBenchmark(tree, found.annotations), splits, tuple(unpacked))


def _is_complete(benchmark: Benchmark, folder: Path) -> bool:
    """Whether every listed video is on disk, so that nothing needs unpacking."""
    try:
        splits = inspect_benchmark(benchmark, folder).splits.values()
    except VactkError:
        return False
    return all(split.listed == split.on_disk for split in splits)


def _folder(benchmark: Benchmark, root: Path | None) -> Path:
    """Return the first folder that holds archives, else the benchmark's. Raises VactkError where there is none."""
    folders = [location.folder for location in data_locations(benchmark.name, benchmark.folders, root)]
    with_archives = (folder for folder in folders if folder.is_dir() and find_archives(folder))
    return next(with_archives, None) or benchmark.open(root).tree.root


def inspect_benchmark(benchmark: Benchmark, root: Path | None = None) -> BenchmarkStatus:
    """Count what is on disk of a benchmark. Raises VactkError where it is not found."""
    found = benchmark.open(root, use_index=False)
    splits = {split: benchmark.read(found, split, strict=False) for split in found.annotations.splits}
    return _status(benchmark, found, splits, ())


def _status(
    benchmark: Benchmark, found: OpenedBenchmark, splits: dict[str, VideoSet], unpacked: tuple[str, ...]
) -> BenchmarkStatus:
    lines = [line for videos in splits.values() for line in (videos.report.notes if videos.report else ())]
    return BenchmarkStatus(
        root=found.tree.root,
        num_files=len(found.tree.videos),
        num_classes=len(found.annotations.classes),
        splits={
            name: SplitStatus(
                listed=len(videos.records),
                on_disk=len(videos.records) - len(videos.missing),
                published=benchmark.counts.get(name),
            )
            for name, videos in splits.items()
        },
        problems=tuple(dict.fromkeys(lines)),
        unpacked=unpacked,
    )


def _write_records(path: Path, splits: dict[str, VideoSet], root: Path) -> None:
    """Write every record of every split as JSON lines, a list that --dataset takes."""
    lines = []
    for name, videos in splits.items():
        for index, record in enumerate(videos.records):
            if index in videos.missing:
                continue
            line = {
                "video": record.video.relative_to(root).as_posix(),
                "label": None if record.label is None else videos.classes[record.label],
                "captions": list(record.captions) if not videos.classes else None,
                "split": name,
            }
            lines.append(json.dumps({key: value for key, value in line.items() if value}, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")
