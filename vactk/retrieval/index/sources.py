"""Videos to add to an index: a folder's, a list's or a dataset's, or a single file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vactk.data.benchmarks import ALIASES
from vactk.data.datasets import DATASETS, find_dataset
from vactk.data.file_tree import FileTree
from vactk.data.records import Record, VideoSet
from vactk.errors import VactkError, unknown
from vactk.progress import Progress
from vactk.retrieval.index.file_identity import FileState
from vactk.retrieval.index.store import IndexItem
from vactk.video.container import is_video_name


@dataclass(frozen=True)
class VideoSource:
    """Videos that are there now, and what was amiss."""

    name: str
    items: list[IndexItem]
    missing: list[str]  # videos that a list names and that are not on disk
    notes: list[str]


def read_source(
    what: str, split: str | None = None, root: Path | None = None, progress: Progress | None = None
) -> VideoSource:
    """The videos of a dataset that vactk knows, a folder, a list, or a single file.

    A folder is taken as it is, with the first folder inside for a label. Raises VactkError where there is
    nothing of the name, or no video in it.
    """
    path = Path(what)
    if ALIASES.get(what.lower(), what) in DATASETS:
        return of_videos(load_videos(what, split, root, progress))
    if split is None and path.is_dir():
        return _folder(path)
    if split is None and path.is_file() and is_video_name(path):
        return _of_records(f"file {path.resolve()}", [Record(video=path.resolve())], [""])
    if not path.exists() and len(path.parts) == 1:
        raise VactkError(f"{unknown(what, DATASETS, 'dataset')}; nor is there a folder or a list '{what}'")
    return of_videos(load_videos(what, split, root, progress))


def load_videos(
    name: str, split: str | None, root: Path | None, progress: Progress | None = None
) -> VideoSet:
    """A split of a dataset; by default the one that retrieval is measured on."""
    dataset = find_dataset(name)
    return dataset.load(split or dataset.retrieval_split or dataset.test_split, root=root, progress=progress)


def of_videos(videos: VideoSet) -> VideoSource:
    """The videos of a dataset that are on disk."""
    present = videos.present()
    labels = ["" if r.label is None else videos.classes[r.label] for r in present.records]
    source = _of_records(f"dataset {videos.name}/{videos.split}", list(present.records), labels)
    lines = list(videos.report.lines()) if videos.report else []
    gone = [str(videos.records[place].video) for place in sorted(videos.missing)]
    return VideoSource(source.name, source.items, gone + source.missing, lines)


def _folder(folder: Path) -> VideoSource:
    root = folder.resolve()
    names = FileTree.scan(root, use_index=False).videos
    if not names:
        raise VactkError(f"there are no videos in '{folder}'")
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    return _of_records(
        f"folder {root}",
        [Record(video=root / name) for name in names],
        [parts[0] if parts else "" for parts in folders],
    )


def _of_records(name: str, records: list[Record], labels: list[str]) -> VideoSource:
    items: dict[str, IndexItem] = {}
    missing: list[str] = []
    for record, label in zip(records, labels, strict=True):
        state = FileState.of(record.video)
        if state is None:
            missing.append(str(record.video))
            continue
        item = IndexItem(record=record, state=state, label=label, source=name)
        items.setdefault(item.key, item)
    if not items:
        raise VactkError(f"none of the {len(records):,} videos of {name} is on disk")
    return VideoSource(name, list(items.values()), missing, [])
