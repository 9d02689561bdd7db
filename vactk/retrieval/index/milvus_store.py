"""An index on a Milvus server, for collections beyond one machine, or in Milvus Lite's file.

One collection holds everything: a row for each window of a video, a row whose vector does not count for a video
that could not be read, and row 0, which says what the index was made with. A video is there once its first row
is, which is written last; rows are named by what they are of, so that writing them twice changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vactk.errors import VactkError, first_line
from vactk.retrieval.hits import SearchFilter
from vactk.retrieval.index.file_identity import FileIdentity, FileState
from vactk.retrieval.index.store import (
    Counts,
    IndexedVideo,
    IndexEntry,
    IndexMetadata,
    Neighbors,
    VideoEmbeddings,
)

FACTS_KEY = 0
LONGEST_TEXT = 65_535  # characters of a Milvus field
MOST_HITS = 16_384  # of one search
ROWS_AT_ONCE = 1000
CONNECT_S = 10.0
WHOLE_NUMBERS = ("number", "size", "mtime_ns", "is_link")
TIMES = ("start_s", "end_s")
TEXTS = ("video", "path", "path_folded", "label", "label_folded", "source", "note", "digest")
FIELDS = {"key", "vector", *WHOLE_NUMBERS, *TIMES, *TEXTS}
READABLE = 'note == "" and key != 0'


class MilvusStore:
    """A `Store` in the collection `collection` of the server, or the file, at `uri`."""

    def __init__(self, uri: str, collection: str) -> None:
        """Raises VactkError where pymilvus is missing, nothing answers, or the collection is something else."""
        self.name = f"{collection} ({uri})"
        self.collection = collection
        self.is_server = "://" in uri
        self.facts: IndexMetadata | None = None
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", collection):
            raise VactkError(
                f"'{collection}' cannot name a collection: use letters, digits and _, as --index holidays"
            )
        self._errors = _error_handler(self.name)
        with self._errors():
            self._client = _connect(uri)
            if self._client.has_collection(collection):
                self._open()

    def begin(self, facts: IndexMetadata) -> None:
        """Several may write at once: what they write is the same."""
        if self.facts is not None:
            return
        with self._errors():
            if self._client.has_collection(self.collection) and not self._may_go_on(facts.dim):
                self._client.drop_collection(self.collection)
            if not self._client.has_collection(self.collection):
                self._create(facts.dim)
            self._client.load_collection(self.collection)
            self._client.upsert(self.collection, [self._facts_row(facts)])
        self.facts = facts

    def known(self) -> Mapping[str, IndexedVideo]:
        fields = ["video", "path", "size", "mtime_ns", "source", "note"]
        return {
            row["video"]: IndexedVideo(
                Path(row["path"]), FileState(row["size"], row["mtime_ns"]), row["source"], row["note"]
            )
            for row in self._all("number == 0 and key != 0", fields)
        }

    def write(self, videos: Sequence[VideoEmbeddings]) -> None:
        """The first row of each video last: without it, what else is there of the video does not count."""
        self.drop([video.item.key for video in videos])
        rows = [row for video in videos for row in self._rows_of(video)]
        with self._errors():
            for part in (_others(rows), _firsts(rows)):
                for start in range(0, len(part), ROWS_AT_ONCE):
                    self._client.upsert(self.collection, part[start : start + ROWS_AT_ONCE])

    def drop(self, keys: Collection[str]) -> None:
        listed = list(keys)
        with self._errors():
            for start in range(0, len(listed), ROWS_AT_ONCE):
                names = json.dumps(listed[start : start + ROWS_AT_ONCE], ensure_ascii=False)
                for which in ("number == 0", "number > 0"):  # the first row first: without it nothing counts
                    self._client.delete(self.collection, filter=f"{which} and video in {names}")

    def finish(self, probes: Tensor, message: Callable[[str], None]) -> None:
        with self._errors():
            self._client.flush(self.collection)

    def nearest(self, queries: Tensor, count: int, only: SearchFilter) -> list[Neighbors]:
        conditions = [READABLE]
        if only.label:
            conditions.append(f"label_folded == {_quoted(only.label.casefold())}")
        if only.path:
            conditions.append(f"path_folded like {_quoted(f'%{_like(only.path.casefold())}%')}")
        with self._errors():
            found = self._client.search(
                self.collection,
                data=queries.tolist(),
                anns_field="vector",
                limit=min(count, MOST_HITS),
                filter=" and ".join(conditions),
                search_params={"metric_type": "IP"},
                consistency_level="Strong",
            )
        return [
            Neighbors([hit["key"] for hit in hits], [float(hit["distance"]) for hit in hits])
            for hits in found
        ]

    def entries(self, keys: Collection[int]) -> Mapping[int, IndexEntry]:
        found, listed = {}, [key for key in keys if key != FACTS_KEY]
        for start in range(0, len(listed), ROWS_AT_ONCE):
            part = listed[start : start + ROWS_AT_ONCE]
            fields = ["path", "start_s", "end_s", "label", *FileIdentity._fields]
            for row in self._query(f"{READABLE} and key in {part}", fields):
                file = FileIdentity(row["size"], row["mtime_ns"], bool(row["is_link"]), row["digest"])
                found[row["key"]] = IndexEntry(
                    Path(row["path"]), row["start_s"], row["end_s"], row["label"], file
                )
        return found

    def vectors(self, path: Path) -> Tensor | None:
        rows = self._query(f"{READABLE} and path == {_quoted(str(path))}", ["vector"])
        return torch.tensor([row["vector"] for row in rows]) if rows else None

    def labels(self) -> list[str]:
        return sorted({row["label"] for row in self._all(f"number == 0 and {READABLE}", ["label"])} - {""})

    def counts(self) -> Counts:
        if self.facts is None:
            return Counts(0, 0, 0)
        readable = self._count(f"number == 0 and {READABLE}")
        failed = self._count('note != "" and key != 0')
        method = "milvus" if self.is_server else "milvus lite, exact"
        return Counts(readable, self._count(READABLE), failed, method)

    def close(self) -> None:
        with contextlib.suppress(Exception):  # a connection that is lost is closed
            self._client.close()

    def _open(self) -> None:
        """`facts` stay None where a process was killed while it made the collection: it is made anew."""
        fields = {field["name"] for field in self._client.describe_collection(self.collection)["fields"]}
        is_ours = fields >= FIELDS
        if is_ours and not self._client.list_indexes(self.collection):
            return
        self._client.load_collection(self.collection)
        rows = self._query(f"key == {FACTS_KEY}", ["note"]) if fields >= {"key", "note"} else []
        if rows:
            self.facts = IndexMetadata.of(json.loads(rows[0]["note"]), self.name)
        elif not is_ours or self._count("key >= 0"):
            raise VactkError(
                f"collection '{self.collection}' is not an index of vactk's: choose another --index"
            )

    def _may_go_on(self, dim: int) -> bool:
        """Whether a collection without facts is as another process, which writes the same, makes it just now."""
        described = self._client.describe_collection(self.collection)
        dims = [field["params"].get("dim") for field in described["fields"] if field["name"] == "vector"]
        return dims == [dim] and bool(self._client.list_indexes(self.collection))

    def _create(self, dim: int) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        for name in WHOLE_NUMBERS:
            schema.add_field(name, DataType.INT64)
        for name in TIMES:
            schema.add_field(name, DataType.DOUBLE)
        for name in TEXTS:
            schema.add_field(name, DataType.VARCHAR, max_length=LONGEST_TEXT)
        index = self._client.prepare_index_params()
        kind = "AUTOINDEX" if self.is_server else "FLAT"
        index.add_index("vector", index_type=kind, metric_type="IP")
        self._client.create_collection(self.collection, schema=schema, index_params=index)

    def _facts_row(self, facts: IndexMetadata) -> dict[str, Any]:
        empty = {**dict.fromkeys(TEXTS, ""), **dict.fromkeys((*WHOLE_NUMBERS, *TIMES), 0)}
        note = json.dumps(facts.to_json())
        return {**empty, "key": FACTS_KEY, "vector": [0.0] * facts.dim, "note": note}

    def _rows_of(self, video: VideoEmbeddings) -> Iterator[dict[str, Any]]:
        item = video.item
        path, file = str(item.record.video), item.identify()
        same = {
            "video": item.key, "path": path, "path_folded": path.casefold(), "label": item.label,
            "label_folded": item.label.casefold(), "source": item.source, "note": video.problem[:1000],
            **file._asdict(), "is_link": int(file.is_link),
        }  # fmt: skip
        spans, vectors = list(video.spans), video.vectors
        if vectors is None:
            assert self.facts is not None
            spans, vectors = [(0.0, 0.0)], torch.zeros(1, self.facts.dim)
        for number, ((start_s, end_s), vector) in enumerate(zip(spans, vectors.tolist(), strict=True)):
            place = {"number": number, "start_s": start_s, "end_s": end_s}
            yield {"key": _key(item.key, number), "vector": vector, **same, **place}

    def _query(self, condition: str, fields: list[str]) -> list[dict[str, Any]]:
        with self._errors():
            found = self._client.query(
                self.collection, filter=condition, output_fields=["key", *fields], consistency_level="Strong"
            )
        return list(found)

    def _count(self, condition: str) -> int:
        with self._errors():
            found = self._client.query(
                self.collection, filter=condition, output_fields=["count(*)"], consistency_level="Strong"
            )
        return int(found[0]["count(*)"])

    def _all(self, condition: str, fields: list[str]) -> Iterator[dict[str, Any]]:
        with self._errors():
            rows = self._client.query_iterator(
                self.collection,
                filter=condition,
                output_fields=fields,
                batch_size=ROWS_AT_ONCE,
                consistency_level="Strong",
            )
            while part := rows.next():
                yield from part
            rows.close()


def _connect(uri: str) -> Any:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # or it tells of every worker process that is forked
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise VactkError("--store milvus: needs a package: pip install 'vactk[milvus]'") from error
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # its errors are reported, once, by us
    return MilvusClient(uri=uri, timeout=CONNECT_S)


def _error_handler(name: str) -> Callable[[], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def errors() -> Iterator[None]:
        try:
            yield
        except VactkError:
            raise
        except Exception as error:
            if type(error).__module__.split(".")[0] not in ("pymilvus", "milvus_lite", "grpc"):
                raise
            raise VactkError(f"Milvus cannot serve index '{name}': {first_line(error)}") from error

    return errors


def _key(video: str, number: int) -> int:
    """A positive 63-bit number for a window of a video, the same each time."""
    digest = hashlib.sha256(f"{number}:{video}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 1) or 1


def _firsts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["number"] == 0]


def _others(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["number"] > 0]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _like(pattern: str) -> str:
    """* and ? as Milvus writes them, its own signs as themselves."""
    escaped = re.sub(r"([%_\\])", r"\\\1", pattern)
    return escaped.replace("*", "%").replace("?", "_")
