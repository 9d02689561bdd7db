"""Bring an index up to date with its videos: only new and changed files are read."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import vactk
from vactk import config as settings
from vactk.data.config import DataConfig
from vactk.data.windows import WindowConfig
from vactk.distributed import Accelerator, broadcast_object
from vactk.errors import VactkError
from vactk.evaluate.classifier import class_embeddings
from vactk.evaluate.windows import embed_windows
from vactk.models.video_model import VideoModel
from vactk.progress import Progress
from vactk.retrieval.index.file_identity import FileState
from vactk.retrieval.index.sources import VideoSource
from vactk.retrieval.index.store import IndexedVideo, IndexItem, IndexMetadata, Store, VideoEmbeddings
from vactk.text.templates import choose_templates

COMMIT_EVERY_S = 5.0
COMMIT_VIDEOS = 1024


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """How videos become vectors, besides the model: a part of what binds an index."""

    data: DataConfig = field(default_factory=DataConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)

    def to_json(self) -> dict[str, Any]:
        """Return the settings that change vectors, and no others."""
        data = settings.to_dict(self.data)
        kept = {name: data[name] for name in ("num_frames", "views", "sampling")}
        crops = {"transform": {"eval_crops": self.data.transform.eval_crops}}
        return {"data": {**kept, **crops}, "windows": settings.to_dict(self.windows)}

    @property
    def short_hash(self) -> str:
        """Tells apart what `to_json` tells apart, in 8 digits."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:8]


@dataclass
class Change:
    """Result of an update. Videos are given by their paths."""

    added: int = 0
    replaced: int = 0  # files that had changed
    unchanged: int = 0
    dropped: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # why
    partial: dict[str, str] = field(default_factory=dict)  # read as far as they go
    missing: list[str] = field(default_factory=list)  # listed, and not on disk

    def to_json(self) -> dict[str, Any]:
        """The keys that scripts rely on."""
        problems = {
            name: [{"video": video, "error": reason} for video, reason in found.items()]
            for name, found in (("failed", self.failed), ("partial", self.partial))
        }
        return {**vars(self), **problems}


@dataclass(frozen=True)
class IndexDiff:
    """The difference between an index and a source: videos to embed, and videos to drop."""

    items: list[IndexItem]
    drop: list[str]
    replaced: frozenset[str]  # keys of those items that the index has already
    unchanged: int
    known_failures: dict[str, str]


def diff_index(known: Mapping[str, IndexedVideo], source: VideoSource, *, retry: bool = False) -> IndexDiff:
    """Compare an index with a source. With `retry`, videos that could not be read are tried again."""
    items, failures, replaced, unchanged = [], {}, set(), 0
    for item in source.items:
        former = known.get(item.key)
        if former is None:
            items.append(item)
        elif former.state != item.state or (retry and former.problem):
            items.append(item)
            replaced.add(item.key)
        else:
            unchanged += 1
            if former.problem:
                failures[item.key] = former.problem
    here = {item.key for item in source.items}
    gone = [
        key
        for key, former in known.items()
        if key not in here and (former.source == source.name or FileState.of(former.path) is None)
    ]
    return IndexDiff(items, gone, frozenset(replaced), unchanged, failures)


def update_index(
    store: Store,
    model: VideoModel,
    source: VideoSource,
    reading: EmbeddingConfig,
    accelerator: Accelerator,
    *,
    batch_size: int,
    retry: bool = False,
    progress: Progress | None = None,
) -> Change:
    """Bring `store`, which has begun on the main process, up to date with `source`.

    Videos are shared out over all processes; the main one writes. When killed, what was written is there, and
    the same call goes on from it to the same index.
    """
    is_main = accelerator.is_main_process
    todo = broadcast_object(diff_index(store.known(), source, retry=retry) if is_main else None)
    assert todo is not None
    change = Change(
        unchanged=todo.unchanged,
        dropped=len(todo.drop),
        failed=dict(todo.known_failures),
        missing=source.missing,
    )
    if is_main and todo.drop:
        store.drop(todo.drop)
    waiting: list[VideoEmbeddings] = []
    written_s, done = time.monotonic(), 0
    for videos in embed_videos(model, todo.items, reading, accelerator, batch_size=batch_size):
        waiting += videos
        done += len(videos)
        for video in videos:
            _note(change, video, is_new=video.item.key not in todo.replaced)
        if len(waiting) >= COMMIT_VIDEOS or time.monotonic() - written_s > COMMIT_EVERY_S:
            if is_main:
                store.write(waiting)
            waiting, written_s = [], time.monotonic()
        if progress is not None:
            progress(done, len(todo.items))
    if is_main and waiting:
        store.write(waiting)
    return change


def _note(change: Change, video: VideoEmbeddings, *, is_new: bool) -> None:
    if video.problem:
        change.failed[video.item.key] = video.problem
        return
    change.added += is_new
    change.replaced += not is_new
    if video.warning:
        change.partial[video.item.key] = video.warning


def embed_videos(
    model: VideoModel,
    items: Sequence[IndexItem],
    reading: EmbeddingConfig,
    accelerator: Accelerator,
    *,
    batch_size: int,
) -> Iterator[list[VideoEmbeddings]]:
    """Yield the embeddings of all videos; see `embed_windows`."""
    records = [item.record for item in items]
    for videos in embed_windows(
        model, records, reading.windows, reading.data, accelerator, batch_size=batch_size
    ):
        yield [
            VideoEmbeddings(item=items[found.record_index], problem=found.problem)
            if found.problem
            else VideoEmbeddings(
                item=items[found.record_index],
                spans=found.spans,
                vectors=found.vectors,
                warning=found.warning,
            )
            for found in videos
        ]


def make_metadata(
    model: VideoModel, opened_by: dict[str, Any], reading: EmbeddingConfig, fingerprint: str
) -> IndexMetadata:
    """Return the metadata of a new index. `opened_by`: how to load the model again."""
    return IndexMetadata(
        dim=model.video_clip.vision.embed_dim,
        fingerprint=fingerprint,
        model=opened_by,
        reading=reading.to_json(),
        version=vactk.__version__,
    )


def check_model(store: Store, fingerprint: str, reading: EmbeddingConfig) -> None:
    """Raise VactkError where vectors of this model and these settings are not comparable with the index's."""
    facts = store.facts
    if facts is None:
        return
    if facts.fingerprint != fingerprint:
        raise VactkError(
            f"index '{store.name}' was made with another model, '{facts.model_name}': similarities between the two "
            "mean nothing; leave out --checkpoint and --backbone, or make another --index"
        )
    if facts.reading != reading.to_json():
        raise VactkError(
            f"index '{store.name}' was made with other frames, views or windows: {facts.reading}; leave out "
            "--frames, --views, --window and --stride, or make another --index"
        )


def typical_queries(model: VideoModel, device: torch.device) -> torch.Tensor:
    """Embed some hundred names of actions, as examples of what users search for. -> (P, E)"""
    from vactk.data.annotations.classes import known_classes

    words = tuple(known_classes("k600").values())
    return class_embeddings(model, words, choose_templates("video"), device).float().cpu()
