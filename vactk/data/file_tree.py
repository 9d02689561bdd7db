"""The files under a folder, and the lookup of listed videos among them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vactk.config import parse_json
from vactk.data.annotations.classes import match_key
from vactk.data.annotations.entries import AnnotationEntry, bare_name
from vactk.errors import VactkError
from vactk.video.container import is_video_name

INDEX_NAME = "vactk-index.json"  # written by `vactk data prepare`, so that large trees are walked once


@dataclass(frozen=True)
class FileTree:
    """All files under a folder except hidden ones, as paths relative to it."""

    root: Path
    videos: tuple[str, ...]
    others: tuple[str, ...]
    from_index: bool = False

    @classmethod
    def scan(cls, root: Path, *, use_index: bool = True) -> FileTree:
        """List the files, from the index file if there is one. Raises VactkError where `root` is not a folder."""
        if not root.is_dir():
            raise VactkError(f"there is no folder '{root}'")
        if use_index:
            files = _read_index(root / INDEX_NAME)
            if files is not None:
                return cls._of(root, files, from_index=True)
        return cls._of(root, _walk(root))

    @classmethod
    def _of(cls, root: Path, files: Iterable[str], *, from_index: bool = False) -> FileTree:
        names = sorted(files)
        videos = tuple(name for name in names if is_video_name(name))
        others = tuple(name for name in names if not is_video_name(name))
        return cls(root, videos, others, from_index)

    def to_json(self) -> dict[str, Any]:
        """Return the content of an index file."""
        return {"version": 1, "files": [*self.videos, *self.others]}

    def matching(self, *patterns: str) -> list[Path]:
        """Return the files other than videos whose name matches a pattern, in the order of the patterns."""
        found = []
        for pattern in patterns:
            names = (name for name in self.others if PurePosixPath(name.lower()).match(pattern.lower()))
            found += [self.root / name for name in names]
        return list(dict.fromkeys(found))


class VideoFinder:
    """Finds the file of an entry: at its path with any video suffix, else by its name anywhere in the tree."""

    def __init__(self, tree: FileTree, entries: Sequence[AnnotationEntry]) -> None:
        self.tree = tree
        self._paths = {_without_suffix(path): path for path in reversed(tree.videos)}
        self.num_ambiguous = 0  # entries with several equally good files, of which the first was taken
        self._videos = set(tree.videos)
        self._names: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] = {}
        for path in tree.videos:
            name = bare_name(path)
            self._names.setdefault(name, []).append(path)
            self._folded.setdefault(name.casefold(), []).append(path)
        distinct = {_without_suffix(entry.video): entry.key for entry in entries}
        self._repeated = {name for name, count in Counter(distinct.values()).items() if count > 1}
        others = Counter(name for entry in entries for name in set(entry.other_names))
        self._shared = {name for name, count in others.items() if count > 1}  # by several entries

    def find(self, entry: AnnotationEntry) -> Path | None:
        """Return the file of an entry, or None."""
        written = Path(entry.video)
        if written.is_absolute() and written.is_file():
            return written
        if entry.video in self._videos:
            return self.tree.root / entry.video
        if _without_suffix(entry.video) in self._paths:
            return self.tree.root / self._paths[_without_suffix(entry.video)]
        for name in (entry.video, *(name for name in entry.other_names if name not in self._shared)):
            key = bare_name(name)
            candidates = self._names.get(key) or self._folded.get(key.casefold(), [])
            path = self._choose(candidates, entry)
            if path is not None:
                return self.tree.root / path
        return None

    def _choose(self, candidates: list[str], entry: AnnotationEntry) -> str | None:
        """Return the candidate in the entry's folders, or its class's; else the only one."""
        is_one_name = entry.key not in self._repeated
        if len(candidates) == 1 and is_one_name:
            return candidates[0]
        folders = [match_key(part) for part in PurePosixPath(entry.video).parts[:-1]][::-1]
        wanted = folders or ([match_key(entry.label)] if entry.label else [])
        scored = [(_common(wanted, path), path) for path in candidates]
        best = max((score for score, _ in scored), default=0)
        chosen = [path for score, path in scored if score == best]
        if not chosen or (best == 0 and (folders or not is_one_name)):
            return None
        self.num_ambiguous += len(chosen) > 1
        return chosen[0]


def _common(wanted: list[str], path: str) -> int:
    """Count the folders, from the innermost out, that are those wanted."""
    folders = [match_key(part) for part in PurePosixPath(path).parts[:-1]][::-1]
    count = 0
    for one, other in zip(wanted, folders, strict=False):
        if one != other:
            break
        count += 1
    return count


def _without_suffix(path: str) -> str:
    path = path.replace("\\", "/").removeprefix("./")
    return path.rsplit(".", 1)[0] if is_video_name(path) else path


def _walk(root: Path) -> list[str]:
    """List files, following links to folders, each folder once."""
    files, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(folder).relative_to(root).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        files += [f"{prefix}{name}" for name in names if not name.startswith(".") and name != INDEX_NAME]
    return files


def _read_index(path: Path) -> list[str] | None:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        return [str(name) for name in content["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
