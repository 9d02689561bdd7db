"""An index in a folder: a table of records in SQLite, and beside it files of vectors.

The table says which files count, so that a file that was written when the process was killed counts for nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from vactk.errors import VactkError
from vactk.files.atomic import TEMPORARY, atomic_path
from vactk.retrieval.hits import SearchFilter
from vactk.retrieval.index import faiss_search, shards
from vactk.retrieval.index.file_identity import FileIdentity, FileState
from vactk.retrieval.index.shards import Shard, nearest, open_shard, repack, write_shard
from vactk.retrieval.index.store import (
    Counts,
    IndexedVideo,
    IndexEntry,
    IndexMetadata,
    Neighbors,
    VideoEmbeddings,
)

TABLE = "index.sqlite"
LOCK = "index.lock"
SHARD = re.compile(shards.NAME)
UNFINISHED = re.compile(  # what a killed writer leaves of the files that it was making
    rf"\.({re.escape(TABLE)}|{shards.NAME}|{re.escape(faiss_search.INDEX)}|{re.escape(faiss_search.STATE)})"
    rf"({TEMPORARY}|\.tmp)(-journal|-wal|-shm)?"
)
SHARD_ROWS = 131_072  # of a file that is full
LEAST_ALIVE = 0.75  # of a full file's vectors; with fewer, it is written anew
READ_AGAIN = 5  # times that files are looked for which another process has just merged
SCHEMA = """
CREATE TABLE facts (content TEXT NOT NULL);
CREATE TABLE counters (next_entry INTEGER NOT NULL);
CREATE TABLE videos (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, path TEXT NOT NULL, label TEXT NOT NULL,
    source TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, is_link INTEGER NOT NULL,
    digest TEXT NOT NULL, problem TEXT NOT NULL, warning TEXT NOT NULL);
CREATE TABLE shards (id INTEGER PRIMARY KEY, file TEXT NOT NULL, num_rows INTEGER NOT NULL);
CREATE TABLE entries (
    key INTEGER PRIMARY KEY, video INTEGER NOT NULL REFERENCES videos(id), start_s REAL NOT NULL,
    end_s REAL NOT NULL, shard INTEGER NOT NULL REFERENCES shards(id), row INTEGER NOT NULL);
CREATE TABLE dead (shard INTEGER NOT NULL, row INTEGER NOT NULL);
CREATE INDEX entries_of_video ON entries(video);
CREATE INDEX entries_of_shard ON entries(shard);
CREATE INDEX videos_by_label ON videos(label);
CREATE INDEX videos_by_path ON videos(path);
"""
AT_ONCE = 500  # keys of one statement

T = TypeVar("T")


class LocalStore:
    """A `Store` in a folder of this machine's."""

    def __init__(self, folder: Path, method: faiss_search.Method = "auto") -> None:
        """Opens the index if there is one. Raises VactkError where it is damaged or of another format."""
        self.folder = folder
        self._method = method
        self.name = str(folder)
        self.facts: IndexMetadata | None = None
        self._lock: FileLock | None = None
        self._shards: list[Shard] = []
        self._approximate: faiss_search.FaissIndex | None = None
        self._seen: int | None = (
            None  # the table's version that `_shards` are of; None: not yet, or written since
        )
        self._db: sqlite3.Connection | None = None
        if (folder / TABLE).exists():
            self._open()
        elif folder.exists() and not folder.is_dir():
            raise VactkError(f"'{folder}' is a file: an index is a folder")

    def begin(self, facts: IndexMetadata) -> None:
        """Raises VactkError where another process writes, or the folder holds something else."""
        others = [p.name for p in self._files() if p.name != LOCK and not _is_unfinished(p)]
        if self._db is None and others and TABLE not in others:
            raise VactkError(
                f"'{self.folder}' is not empty and no index ('{others[0]}'): choose another --index"
            )
        self._take_lock()
        if self._db is None and not (self.folder / TABLE).exists():
            self._create(facts)
        if self._db is None:
            self._open()
        with self._errors():
            self._remove_strangers()

    def known(self) -> Mapping[str, IndexedVideo]:
        rows = self._rows("SELECT key, path, size, mtime_ns, source, problem FROM videos ORDER BY id")
        return {key: IndexedVideo(Path(path), FileState(size, mtime), source, problem)
                for key, path, size, mtime, source, problem in rows}  # fmt: skip

    def write(self, videos: Sequence[VideoEmbeddings]) -> None:
        """One file of vectors, and one transaction that makes it count."""
        self._seen = None
        vectors = [video.vectors.half() for video in videos if video.vectors is not None]
        with self._errors(), self._table as table:
            self._forget([video.item.key for video in videos])
            (key,) = table.execute("SELECT next_entry FROM counters").fetchone()
            number = sum(map(len, vectors))
            shard = self._new_shard(torch.cat(vectors), np.arange(key, key + number)) if vectors else None
            table.execute("UPDATE counters SET next_entry = ?", (key + number,))
            row = 0
            for video in videos:
                place = self._put(video)
                for start_s, end_s in video.spans:
                    table.execute(
                        "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)",
                        (key + row, place, start_s, end_s, shard, row),
                    )
                    row += 1

    def drop(self, keys: Collection[str]) -> None:
        self._seen = None
        with self._errors(), self._table:
            self._forget(keys)

    def finish(self, probes: Tensor, message: Callable[[str], None]) -> None:
        """Merges small files, and builds what makes searches of large indexes quicker."""
        with self._errors():
            self._merge()
            self._remove_strangers()
        self._refresh()
        live = [shard for shard in self._shards if (shard.keys >= 0).any()]
        faiss_search.build(self.folder, live, probes, self._method, message)
        self._seen = None

    def nearest(self, queries: Tensor, count: int, only: SearchFilter) -> list[Neighbors]:
        self._refresh()
        if only.path or only.label:
            return nearest(self._shards, queries, count, self._allowed(only))
        if self._approximate is not None:
            return self._approximate.nearest(self._shards, queries, count)
        return nearest(self._shards, queries, count)

    def entries(self, keys: Collection[int]) -> Mapping[int, IndexEntry]:
        statement = (
            "SELECT e.key, v.path, e.start_s, e.end_s, v.label, v.size, v.mtime_ns, v.is_link, v.digest "
            "FROM entries e JOIN videos v ON v.id = e.video WHERE e.key IN ({})"
        )
        rows = [
            row for part in _parts(list(keys)) for row in self._rows(statement.format(_marks(part)), part)
        ]
        return {
            key: IndexEntry(
                Path(path), start_s, end_s, label, FileIdentity(size, mtime_ns, bool(is_link), digest)
            )
            for key, path, start_s, end_s, label, size, mtime_ns, is_link, digest in rows
        }

    def vectors(self, path: Path) -> Tensor | None:
        self._refresh()
        statement = "SELECT e.key FROM entries e JOIN videos v ON v.id = e.video WHERE v.path = ?"
        keys = [key for (key,) in self._rows(statement, (str(path),))]
        if not keys:
            return None
        rows = [(shard, np.isin(shard.keys, keys)) for shard in self._shards]
        order = np.concatenate([shard.keys[own] for shard, own in rows]).argsort()
        return torch.cat([shard.vectors[own] for shard, own in rows])[order].float()

    def labels(self) -> list[str]:
        return [
            label for (label,) in self._rows("SELECT DISTINCT label FROM videos WHERE label != '' ORDER BY 1")
        ]

    def counts(self) -> Counts:
        if self._db is None:
            return Counts(0, 0, 0)
        self._refresh()
        ((videos, failed),) = self._rows("SELECT COUNT(*), COUNT(NULLIF(problem, '')) FROM videos")
        ((entries,),) = self._rows("SELECT COUNT(*) FROM entries")
        method = "exact" if self._approximate is None else self._approximate.title
        return Counts(videos - failed, entries, failed, method)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock is not None:
            self._lock.release()

    # writing

    def _take_lock(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / LOCK)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise VactkError(
                f"another process is adding to index '{self.folder}': wait until it is done"
            ) from error
        except OSError as error:
            raise VactkError(f"cannot write index '{self.folder}': {error.strerror or error}") from error

    def _create(self, facts: IndexMetadata) -> None:
        """The table is made beside its place, so that it is there whole or not at all."""
        with (
            self._errors(),
            atomic_path(self.folder / TABLE, "--index") as unfinished,
            contextlib.closing(sqlite3.connect(unfinished)) as table,
        ):
            table.executescript(f"BEGIN; {SCHEMA}")
            table.execute("INSERT INTO facts VALUES (?)", (json.dumps(facts.to_json()),))
            table.execute("INSERT INTO counters VALUES (1)")
            table.commit()

    def _new_shard(self, vectors: Tensor, keys: np.ndarray) -> int:
        name = write_shard(self.folder, vectors, keys)
        cursor = self._table.execute("INSERT INTO shards (file, num_rows) VALUES (?, ?)", (name, len(keys)))
        return int(cursor.lastrowid or 0)

    def _put(self, video: VideoEmbeddings) -> int:
        item = video.item
        cursor = self._table.execute(
            "INSERT INTO videos (key, path, label, source, size, mtime_ns, is_link, digest, problem, warning) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                item.key,
                str(item.record.video),
                item.label,
                item.source,
                *item.identify(),
                video.problem,
                video.warning,
            ),
        )
        return int(cursor.lastrowid or 0)

    def _forget(self, keys: Collection[str]) -> None:
        for part in _parts(list(keys)):
            own = f"SELECT id FROM videos WHERE key IN ({_marks(part)})"
            self._table.execute(
                f"INSERT INTO dead SELECT shard, row FROM entries WHERE video IN ({own})", part
            )
            self._table.execute(f"DELETE FROM entries WHERE video IN ({own})", part)
            self._table.execute(f"DELETE FROM videos WHERE key IN ({_marks(part)})", part)

    def _merge(self) -> None:
        """The full files at the beginning stay; the others become full ones and a last one, without what is dead.

        All in one step, and under numbers that are free then: how often was written, or killed, leaves no trace.
        """
        self._refresh()
        numbers = [number for (number,) in self._rows("SELECT id FROM shards ORDER BY id")]
        num_full = len(list(itertools.takewhile(lambda shard: len(shard.keys) == SHARD_ROWS, self._shards)))
        others = [
            (number, shard)
            for place, (number, shard) in enumerate(zip(numbers, self._shards, strict=True))
            if place >= num_full or (shard.keys >= 0).mean() < LEAST_ALIVE
        ]
        if len(others) < 2 and not any((s.keys < 0).any() or len(s.keys) > SHARD_ROWS for _, s in others):
            return
        with self._table as table:
            for number, _ in others:
                table.execute("DELETE FROM dead WHERE shard = ?", (number,))
                table.execute("DELETE FROM shards WHERE id = ?", (number,))
            for vectors, keys in repack((shard for _, shard in others), SHARD_ROWS):
                new = self._new_shard(vectors, keys)
                rows = ((new, row, int(key)) for row, key in enumerate(keys))
                table.executemany("UPDATE entries SET shard = ?, row = ? WHERE key = ?", rows)
        self._seen = None

    def _remove_strangers(self) -> None:
        """Files that do not count: left by a killed process, or merged into others. Other people's stay."""
        counting = {file for (file,) in self._rows("SELECT file FROM shards")}
        for path in self._files():
            if _is_unfinished(path) or (SHARD.fullmatch(path.name) and path.name not in counting):
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.exists() else []

    # reading

    @property
    def _table(self) -> sqlite3.Connection:
        if self._db is None:
            raise VactkError(f"there is no index in '{self.folder}': make one with --add FOLDER")
        return self._db

    def _open(self) -> None:
        uri = (self.folder / TABLE).absolute().as_uri() + "?mode=rw"
        with self._errors():
            self._db = sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=30)
        try:
            ((content,),) = self._rows("SELECT content FROM facts")
            self.facts = IndexMetadata.of(json.loads(content), self.folder)
        except (ValueError, TypeError) as error:
            raise self._damaged(error) from error

    def _refresh(self) -> None:
        """Look at the files again where another process, or this one, has written since."""
        for attempt in range(READ_AGAIN):
            ((version,),) = self._rows("PRAGMA data_version")  # of other connections' commits
            if version == self._seen:
                return
            try:
                self._shards = self._read_shards()
            except FileNotFoundError as error:  # merged into another, just now
                if attempt == READ_AGAIN - 1:
                    raise self._damaged(f"'{error}' is missing") from error
                continue
            self._approximate = (
                faiss_search.load(self.folder, self._shards) if self._method != "exact" else None
            )
            self._seen = version
            return

    def _read_shards(self) -> list[Shard]:
        """By one statement, between whose rows no other process can write."""
        dim = self.facts.dim if self.facts else 0
        rows = self._rows(
            "SELECT s.file, s.num_rows, COALESCE(GROUP_CONCAT(d.row), '') FROM shards s "
            "LEFT JOIN dead d ON d.shard = s.id GROUP BY s.id ORDER BY s.id"
        )
        return [
            open_shard(
                self.folder / Path(file).name, num_rows, dim, list(map(int, filter(None, dead.split(","))))
            )
            for file, num_rows, dead in rows
        ]

    def _allowed(self, only: SearchFilter) -> np.ndarray:
        conditions, values = [], []
        if only.label:
            conditions.append("LOWER(v.label) = LOWER(?)")
            values.append(only.label)
        if only.path:
            conditions.append("LOWER(v.path) GLOB LOWER(?)")
            values.append(f"*{_literal(only.path)}*")
        statement = "SELECT e.key FROM entries e JOIN videos v ON v.id = e.video WHERE " + " AND ".join(
            conditions
        )
        return np.array([key for (key,) in self._rows(statement + " ORDER BY e.key", values)], dtype=np.int64)

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._errors():
            return self._table.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            busy = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
            if busy or "readonly" in str(error) or "full" in str(error):
                raise VactkError(f"cannot write index '{self.folder}': {error}") from error
            raise self._damaged(error) from error
        except OSError as error:
            raise VactkError(f"cannot write index '{self.folder}': {error.strerror or error}") from error

    def _damaged(self, error: object) -> VactkError:
        return VactkError(f"index '{self.folder}' is damaged ({error}): delete it and add the videos again")


def _is_unfinished(path: Path) -> bool:
    return UNFINISHED.fullmatch(path.name) is not None and path.is_file()


def _literal(pattern: str) -> str:
    """* and ? as they are in GLOB, brackets as themselves."""
    return pattern.replace("[", "[[]")


def _parts(values: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(values), AT_ONCE):
        yield values[start : start + AT_ONCE]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
