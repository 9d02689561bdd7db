"""Makes a benchmark ready from what the user has downloaded: unpack, check counts, write the record file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from vactk.data.benchmarks import Benchmark, Opened
from vactk.data.file_tree import INDEX_NAME, FileTree
from vactk.data.locations import data_locations
from vactk.data.records import VideoSet
from vactk.data.tools.unpack import archive_name, find_archives, unpack
from vactk.errors import VactkError
from vactk.files.atomic import write_text
from vactk.progress import Progress

RECORDS_NAME = "vactk-records.jsonl"


@dataclass(frozen=True, kw_only=True)
class SplitStatus:
    """How much of a split is there."""

    listed: int
    on_disk: int
    published: int | None  # None: not said


@dataclass(frozen=True, kw_only=True)
class BenchmarkStatus:
    """A benchmark on the user's disk."""

    root: Path
    num_files: int  # videos, listed or not
    num_classes: int
    splits: dict[str, SplitStatus]
    problems: tuple[str, ...] = ()
    unpacked: tuple[str, ...] = field(default=())

    @property
    def complete(self) -> bool:
        """Whether every listed video is there and every count is the published one."""
        return all(
            split.listed == split.on_disk and split.published in (None, split.listed)
            for split in self.splits.values()
        )


def prepare(
    benchmark: Benchmark, root: Path | None = None, progress: Progress | None = None
) -> BenchmarkStatus:
    """Unpack the archives beside the data, count, and write the files that make later reading fast.

    Nothing is downloaded. Raises VactkError, with what to fetch, where annotations or videos are not there.
    """
    folder = _folder(benchmark, root)
    archives = [] if _is_whole(benchmark, folder) else find_archives(folder)
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
    write_text(folder / INDEX_NAME, tree.to_json())
    return _state(benchmark, Opened(tree, found.annotations), splits, tuple(unpacked))


def _is_whole(benchmark: Benchmark, folder: Path) -> bool:
    """Whether every listed video is there, so that nothing need be unpacked."""
    try:
        splits = inspect_benchmark(benchmark, folder).splits.values()
    except VactkError:
        return False
    return all(split.listed == split.on_disk for split in splits)


def _folder(benchmark: Benchmark, root: Path | None) -> Path:
    """The first place that holds archives, or the benchmark. Raises VactkError where none does."""
    looked = [place.folder for place in data_locations(benchmark.name, benchmark.folders, root)]
    with_archives = (folder for folder in looked if folder.is_dir() and find_archives(folder))
    return next(with_archives, None) or benchmark.open(root).tree.root


def inspect_benchmark(benchmark: Benchmark, root: Path | None = None) -> BenchmarkStatus:
    """How much of a benchmark is there. Raises VactkError where it is not."""
    found = benchmark.open(root, use_index=False)
    splits = {split: benchmark.read(found, split, strict=False) for split in found.annotations.splits}
    return _state(benchmark, found, splits, ())


def _state(
    benchmark: Benchmark, found: Opened, splits: dict[str, VideoSet], unpacked: tuple[str, ...]
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
    """Every record of every split, a JSON object a line, in the form that --dataset takes."""
    lines = []
    for name, videos in splits.items():
        for place, record in enumerate(videos.records):
            if place in videos.missing:
                continue
            line = {
                "video": record.video.relative_to(root).as_posix(),
                "label": None if record.label is None else videos.classes[record.label],
                "captions": list(record.captions) if not videos.classes else None,
                "split": name,
            }
            lines.append(json.dumps({key: value for key, value in line.items() if value}, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")
