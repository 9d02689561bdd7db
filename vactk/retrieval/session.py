"""Open an index together with its model, bring it up to date, and search it; or evaluate retrieval."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vactk.config import build, merge, to_dict
from vactk.data.benchmarks import ALIASES
from vactk.data.datasets import DATASETS
from vactk.data.records import VideoSet
from vactk.data.windows import WindowConfig
from vactk.distributed import Accelerator
from vactk.errors import VactkError, unknown
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.protocol import find_protocol
from vactk.evaluate.protocol_splits import load_protocol_data
from vactk.evaluate.retrieval import evaluate_retrieval, retrieval_data
from vactk.evaluate.setup import load_for_evaluation, prepare_model, strange_to_toy
from vactk.evaluate.zero_shot import Unreadable
from vactk.files.paths import cache_folder
from vactk.models.video_model import VideoModel
from vactk.progress import Reporter
from vactk.recipes import read_recipe
from vactk.retrieval.hits import Hit, SearchFilter
from vactk.retrieval.index.embedding import model_fingerprint
from vactk.retrieval.index.sources import VideoSource, load_videos, of_videos, read_source
from vactk.retrieval.index.sqlite_store import LocalStore
from vactk.retrieval.index.store import Store
from vactk.retrieval.index.update import (
    EmbeddingConfig,
    check_model,
    make_metadata,
    typical_queries,
    update_index,
)
from vactk.retrieval.library import load_index_model, machine_settings
from vactk.retrieval.search import Searcher

DEFAULT_DATASET = "msrvtt"


@dataclass(frozen=True, kw_only=True)
class RetrieveOptions:
    """Which index, dataset and model to use, and how videos are embedded."""

    index: str | None = None  # folder, or name within `store`; None: the index of `dataset`
    store: str | None = None  # "milvus:..."; None: a folder
    dataset: str | None = None
    split: str | None = None
    data_root: Path | None = None
    checkpoint: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)  # of a recipe's settings
    windows: WindowConfig = field(default_factory=WindowConfig)
    search: Literal["auto", "exact", "approximate"] = "auto"

    @property
    def dataset_name(self) -> str:
        return self.dataset or DEFAULT_DATASET

    @property
    def names_model(self) -> bool:
        return self.checkpoint is not None or "model" in self.overrides

    @property
    def names_embedding(self) -> bool:
        return bool(self.windows.length_s or {"num_frames", "views"} & self._data.keys())

    @property
    def views(self) -> int:
        return self._data.get("views", 1)

    @property
    def templates(self) -> str:
        """Templates of queries; by default they are embedded as they are."""
        return self.overrides.get("templates", "{}")

    @property
    def _data(self) -> Mapping[str, Any]:
        return self.overrides.get("data", {})


class Answer(NamedTuple):
    """The hits of a query: a text, or a video that others are compared with."""

    kind: Literal["query", "like"]
    text: str  # or the video's path
    hits: list[Hit]

    def to_json(self) -> dict[str, Any]:
        """The keys that scripts rely on."""
        return {self.kind: self.text, "hits": [hit.to_json() for hit in self.hits]}


class SearchResult(NamedTuple):
    """The answers to all queries of one search."""

    answers: list[Answer]
    truncated: list[str]  # queries longer than the text tower reads
    latency_ms: float

    @property
    def hits(self) -> dict[str, list[Hit]]:
        """The hits of each query, by a title for it."""
        titles = (one.text if one.kind == "query" else f"like {one.text}" for one in self.answers)
        return dict(zip(titles, (one.hits for one in self.answers), strict=True))

    def to_json(self) -> dict[str, Any]:
        """The keys that scripts rely on; a single answer is also at the top level."""
        answers = [answer.to_json() for answer in self.answers]
        only = answers[0] if len(answers) == 1 else {}
        return {**only, "results": answers, "cut": self.truncated, "latency_ms": self.latency_ms}


@dataclass(frozen=True, kw_only=True)
class IndexSession:
    """An opened index and the model that embeds its videos and queries."""

    store: Store
    model: VideoModel
    model_source: dict[str, Any]  # how to load the model again
    fingerprint: str  # of the model
    config: EvalConfig
    embedding: EmbeddingConfig
    templates: str  # of queries
    accelerator: Accelerator

    def update(
        self, sources: Sequence[VideoSource], reporter: Reporter, *, retry: bool = False
    ) -> dict[str, Any]:
        """Bring the index up to date with `sources`; called on all processes.

        Returns its description and the changes, on the main process. With `retry`, videos that could not be read
        before are tried again.
        """
        is_main = self.accelerator.is_main_process
        if sources and is_main:
            self.store.begin(make_metadata(self.model, self.model_source, self.embedding, self.fingerprint))
        changes: dict[str, Any] = {}
        for source in sources:
            for note in source.notes:
                reporter.message(f"{source.name}: {note}")
            for name, value in self._add(source, reporter, retry).items():
                changes[name] = changes[name] + value if name in changes else value
        if sources and is_main:
            self.store.finish(typical_queries(self.model, self.accelerator.device), reporter.message)
        return {**self.describe(), **changes} if is_main else {}

    def _add(self, source: VideoSource, reporter: Reporter, retry: bool) -> dict[str, Any]:
        try:
            change = update_index(
                self.store,
                self.model,
                source,
                self.embedding,
                self.accelerator,
                batch_size=self.config.batch_size,
                retry=retry,
                progress=reporter.progress("videos"),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"index '{self.store.name}' keeps the videos embedded so far; run the same command to continue"
            ) from None
        if change.failed and len(change.failed) == len(source.items):
            raise VactkError(
                f"none of the videos could be read; the first: {next(iter(change.failed.values()))}"
            )
        return change.to_json()

    def searcher(self) -> Searcher:
        """Return what searches the index; on the main process, after `update`."""
        return Searcher(
            self.store, self.model, self.embedding.data, self.accelerator.device, templates=self.templates
        )

    def describe(self) -> dict[str, Any]:
        """Return the size of the index and what it was made with, under the keys that scripts rely on."""
        counts, metadata = self.store.counts(), self.store.facts
        if metadata is None:
            raise ValueError(f"index '{self.store.name}' is empty")
        return {
            "index": self.store.name,
            "videos": counts.videos,
            "entries": counts.entries,
            "search": counts.method,
            "model": metadata.model,
            "reading": metadata.reading,
        }


def open_index(
    options: RetrieveOptions, add: Sequence[str], reporter: Reporter, confirm: Callable[[str], None]
) -> tuple[IndexSession, list[VideoSource]]:
    """Open an index with its model; return them and the videos to bring it up to date with.

    These are the sources that `add` names, or the dataset's videos where no index is named. `confirm` gets a
    question before a dataset is first read; it raises VactkError to cancel. Raises VactkError for an index that is
    not there, or that another model made.
    """
    if options.index is None:
        return _open_dataset_index(options, reporter, confirm)
    store = _open_store(options, options.index)
    sources = [
        read_source(name, options.split, options.data_root, reporter.progress(f"{name}: videos"))
        for name in add
    ]
    if not sources and store.facts is None:
        raise VactkError(f"there is no index in '{options.index}': create it with --add FOLDER")
    made_with = store.facts.model if store.facts is not None else None
    if options.names_model or made_with is None:
        loaded = _load_model(options, add[0] if add else "", reporter)
    else:
        loaded = load_index_model(store.name, made_with, options.overrides, reporter.message)
    return _open_session(options, store, *loaded), sources


def _open_dataset_index(
    options: RetrieveOptions, reporter: Reporter, confirm: Callable[[str], None]
) -> tuple[IndexSession, list[VideoSource]]:
    """Open the index of a dataset in the cache: one for each model and way of embedding."""
    name = options.dataset_name
    try:
        videos = _load_videos(options, reporter)
    except VactkError as error:
        raise VactkError(
            f"{error}; to search your own videos: vactk retrieve --index DIR --add FOLDER; "
            'to try it without any: vactk retrieve --dataset shapes --query "a red star"'
        ) from error
    source = of_videos(videos)
    model, config = _load_model(options, name, reporter)
    made_with = f"{model_fingerprint(model)[:8]}-{_embedding_config(options, config, None).short_hash}"
    folder = f"{videos.name}-{videos.split}-{made_with}".replace("/", "-")
    store = _open_store(options, str(cache_folder() / "indexes" / folder))
    if store.facts is None:
        confirm(f"{name} has no index for this model yet: read its {len(source.items):,} videos now?")
    return _open_session(options, store, model, config), [source]


def _open_session(
    options: RetrieveOptions, store: Store, model: VideoModel, config: EvalConfig
) -> IndexSession:
    embedding = _embedding_config(options, config, store.facts.reading if store.facts is not None else None)
    fingerprint = model_fingerprint(model)
    check_model(store, fingerprint, embedding)
    if options.checkpoint is None:
        source: dict[str, Any] = {"stated": {"backbone": to_dict(model.config.backbone)}}
    else:
        stated = options.overrides.get("model", {})
        source = {"checkpoint": str(options.checkpoint.resolve()), "stated": stated}
    return IndexSession(
        store=store,
        model=model,
        model_source=source,
        fingerprint=fingerprint,
        config=config,
        embedding=embedding,
        templates=options.templates,
        accelerator=prepare_model(model, config),
    )


def search(
    searcher: Searcher,
    queries: Sequence[str],
    like: Sequence[Path],
    limits: SearchFilter,
    message: Callable[[str], None],
) -> SearchResult:
    """Search for texts, and for videos like others. Raises VactkError for a query that is empty or too long.

    And for a label that no video has.
    """
    _check_label(searcher, limits.label)
    if warning := strange_to_toy(searcher.model, queries):
        message(f"warning: {warning}")
    started_s = time.perf_counter()
    by_text = searcher.by_text(queries, limits) if queries else []
    answers = [Answer("query", query, hits) for query, hits in zip(queries, by_text, strict=True)]
    answers += [Answer("like", str(video), searcher.by_video(video, limits)) for video in like]
    latency_ms = 1000 * (time.perf_counter() - started_s)
    for text in searcher.cut:
        message(f"the query is longer than the model reads and was truncated: '{text[:60]}...'")
    return SearchResult(answers, searcher.cut, latency_ms)


def _check_label(searcher: Searcher, label: str) -> None:
    """Raises VactkError where no video of the index has a label, with those that there are."""
    if not label:
        return
    known = searcher.labels()
    if not known:
        raise VactkError(f"no video of this index has a label: leave out --label '{label}'")
    if label.casefold() not in {one.casefold() for one in known}:
        raise VactkError(unknown(label, known, "label of this index"))


def evaluate(
    options: RetrieveOptions,
    protocol: str | None,
    reporter: Reporter,
    *,
    dual: bool = False,
    unreadable: Unreadable = "wrong",
    max_failed: float = 1.0,
) -> dict[str, Any]:
    """Return recalls and ranks on a protocol or, without one, on a dataset, and what they were measured with."""
    name, title, notes = options.dataset_name, "", list[str]()
    if protocol is None:
        videos = _load_videos(options, reporter)
    else:
        found = find_protocol(protocol)
        if found.task != "retrieval":
            raise VactkError(f"'{found.name}' is not a retrieval protocol: evaluate it with `vactk zeroshot`")
        loaded = load_protocol_data(found, options.data_root)
        videos, notes, title, name = loaded.videos, list(loaded.notes), found.title, found.dataset
    for note in notes:
        reporter.message(f"{protocol}: {note}")
    model, config = _load_model(options, name, reporter)
    config = replace(config, data=retrieval_data(config.data, views=options.views))
    result = evaluate_retrieval(
        model,
        videos,
        config,
        prepare_model(model, config),
        name=protocol.lower() if protocol else "",
        dual=dual,
        unreadable=unreadable,
        max_failed=max_failed,
        progress=reporter.progress("videos"),
    )
    conditions = {
        "title": title,
        "notes": notes,
        "frames": config.data.num_frames,
        "views": config.data.views,
        "crops": config.data.transform.eval_crops,
        "templates": "none",
        "model": str(options.checkpoint or model.config.backbone.name),
    }
    return {**result.to_json(), **conditions}


def _load_videos(options: RetrieveOptions, reporter: Reporter) -> VideoSet:
    name = options.dataset_name
    return load_videos(name, options.split, options.data_root, reporter.progress(f"{name}: videos"))


def _open_store(options: RetrieveOptions, name: str) -> Store:
    if options.store is None:
        return LocalStore(Path(name), options.search)
    kind, _, uri = options.store.partition(":")
    if kind != "milvus" or not uri:
        raise VactkError(
            f"unknown --store '{options.store}': choose milvus:http://HOST:19530 or milvus:FILE.db"
        )
    from vactk.retrieval.index.milvus_store import MilvusStore

    return MilvusStore(uri, Path(name).name if options.index is None else name)


def _load_model(options: RetrieveOptions, dataset: str, reporter: Reporter) -> tuple[VideoModel, EvalConfig]:
    """Load the model of the options, with the defaults of `dataset` if it is a known one."""
    known = DATASETS.get(ALIASES.get(dataset.lower(), dataset))
    defaults = read_recipe(known.recipe) if known is not None and known.labelled else {}
    return load_for_evaluation(options.checkpoint, options.overrides, defaults, reporter.message)


def _embedding_config(
    options: RetrieveOptions, config: EvalConfig, of_index: Mapping[str, Any] | None
) -> EmbeddingConfig:
    """Return the settings of the index or, where there are none, as many frames as the model was trained with."""
    data, machine = config.data, machine_settings(config.data)
    if of_index is not None and not options.names_embedding:
        return build(EmbeddingConfig, merge(of_index, {"data": machine}))
    return EmbeddingConfig(data=retrieval_data(data, views=options.views), windows=options.windows)
