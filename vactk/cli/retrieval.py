"""What `vactk retrieve` does: opens an index with its model, keeps it up to date, searches, measures, serves."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from vactk.cli.display import Display
from vactk.config import build, merge
from vactk.errors import VactkError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vactk.evaluate.config import EvalConfig
    from vactk.models.video_model import VideoModel
    from vactk.retrieval.hits import Hit
    from vactk.retrieval.index.sources import VideoSource
    from vactk.retrieval.index.store import Store
    from vactk.retrieval.index.update import EmbeddingConfig
    from vactk.retrieval.search import Searcher

DEFAULT_DATASET = "msrvtt"


@dataclass(frozen=True, kw_only=True)
class RetrieveOptions:
    """What the options say, before anything is opened."""

    index: str | None
    store: str | None
    dataset: str | None
    split: str | None
    checkpoint: Path | None
    overrides: dict[str, Any]  # of a recipe
    views: int | None
    window_s: float
    stride_s: float
    search: Literal["auto", "exact", "approximate"]
    templates: str | None
    yes: bool

    @property
    def data_root(self) -> Path | None:
        return Path(self.overrides["data_root"]) if "data_root" in self.overrides else None

    @property
    def names_model(self) -> bool:
        return self.checkpoint is not None or "model" in self.overrides

    @property
    def names_reading(self) -> bool:
        return bool(self.window_s or self.views or "num_frames" in self.overrides.get("data", {}))


class Session:
    """One call of the command."""

    def __init__(self, asked: RetrieveOptions, shown: Display, *, may_ask: bool) -> None:
        self.asked = asked
        self.shown = shown
        self.may_ask = may_ask
        self.store: Store | None = None
        self.searcher: Searcher | None = None
        self.hits: dict[str, Sequence[Hit]] = {}  # of each query

    def measure(
        self,
        protocol: str | None,
        dual_softmax: bool,
        unreadable: Literal["wrong", "skip"],
        max_failed: float,
    ) -> dict[str, Any]:
        """Recalls and ranks of a protocol, or of a dataset."""
        from vactk.evaluate.protocol import find_protocol
        from vactk.evaluate.protocol_splits import load_protocol_data
        from vactk.retrieval.evaluate import evaluate_retrieval
        from vactk.retrieval.index.sources import load_videos

        name, title = self.asked.dataset or DEFAULT_DATASET, ""
        notes: tuple[str, ...] = ()
        if protocol:
            found = find_protocol(protocol)
            if found.task != "retrieval":
                raise VactkError(f"'{found.name}' is no retrieval protocol: `vactk zeroshot` measures these")
            plan = load_protocol_data(found, self.asked.data_root)
            videos, notes, title, name = plan.videos, plan.notes, found.title, found.dataset
        else:
            progress = self.shown.progress(f"{name}: videos")
            videos = load_videos(name, self.asked.split, self.asked.data_root, progress)
        for note in notes:
            self.shown.message(f"{protocol}: {note}")
        model, config = self._load(name)
        reading = self._reading(config)
        accelerator = self._place(model, config)
        result = evaluate_retrieval(
            model,
            videos,
            reading,
            accelerator,
            name=protocol.lower() if protocol else "",
            batch_size=config.batch_size,
            dual=dual_softmax,
            unreadable=unreadable,
            max_failed=max_failed,
            progress=self.shown.progress("videos"),
        )
        conditions = {
            "title": title,
            "notes": list(notes),
            "frames": reading.data.num_frames,
            "views": reading.data.views,
            "crops": reading.data.transform.eval_crops,
            "templates": "none",
            "model": str(self.asked.checkpoint or model.config.backbone.name),
        }
        return {**result.to_json(), **conditions}

    def bring_up_to_date(self, add: Sequence[str], *, retry: bool) -> dict[str, Any]:
        """Open the index, and put in what is to be added, or the dataset whose index it is."""
        from vactk.retrieval.index.sources import read_source

        asked = self.asked
        if asked.index is None:
            return self._dataset_index(retry=retry)
        self.store = self._open_store(asked.index)
        sources = [
            read_source(name, asked.split, asked.data_root, self.shown.progress(f"{name}: videos"))
            for name in add
        ]
        if not sources and self.store.facts is None:
            raise VactkError(f"there is no index in '{asked.index}': make one with --add FOLDER")
        model, config = self._model_of(self.store, add)
        return self._update(model, config, sources, retry=retry)

    def _dataset_index(self, *, retry: bool) -> dict[str, Any]:
        """The index that vactk keeps of a dataset, for the model that is asked for; built on first use."""
        from vactk.files.paths import cache_folder
        from vactk.retrieval.index.embedding import model_fingerprint
        from vactk.retrieval.index.sources import load_videos, of_videos

        name = self.asked.dataset or DEFAULT_DATASET
        try:
            videos = load_videos(
                name, self.asked.split, self.asked.data_root, self.shown.progress(f"{name}: videos")
            )
        except VactkError as error:
            raise VactkError(
                f"{error}; to search videos of your own: vactk retrieve --index DIR --add FOLDER; "
                'to try it without any: vactk retrieve --dataset shapes --query "a red star"'
            ) from error
        source = of_videos(videos)
        model, config = self._load(name)
        reading = self._reading(config)
        made_with = f"{model_fingerprint(model)[:8]}-{reading.short_hash}"
        folder = f"{videos.name}-{videos.split}-{made_with}".replace("/", "-")
        self.store = self._open_store(str(cache_folder() / "indexes" / folder))
        if self.store.facts is None:
            self._ask(f"{name} has no index for this model yet: read its {len(source.items):,} videos now?")
        return self._update(model, config, [source], retry=retry)

    def _ask(self, question: str) -> None:
        if self.asked.yes:
            return
        if not self.may_ask or not sys.stdin.isatty():
            raise VactkError(f"{question} Say so with --yes")
        self.shown.bars.stop()
        if not typer.confirm(question, err=True):
            raise VactkError("nothing was read")
        self.shown.bars.start()

    def _update(
        self, model: VideoModel, config: EvalConfig, sources: Sequence[VideoSource], *, retry: bool
    ) -> dict[str, Any]:
        from vactk.retrieval.index.embedding import model_fingerprint
        from vactk.retrieval.index.update import check_model, make_metadata, typical_queries
        from vactk.retrieval.search import Searcher

        assert self.store is not None
        reading = self._reading(config)
        fingerprint = model_fingerprint(model)
        check_model(self.store, fingerprint, reading)
        accelerator = self._place(model, config)
        changes: list[dict[str, Any]] = []
        if sources:
            if accelerator.is_main_process:
                self.store.begin(make_metadata(model, self._model_facts(model), reading, fingerprint))
            for source in sources:
                for note in source.notes:
                    self.shown.message(f"{source.name}: {note}")
                changes.append(self._add(model, config, source, reading, accelerator, retry))
            if accelerator.is_main_process:
                self.store.finish(typical_queries(model, accelerator.device), self.shown.message)
        if not accelerator.is_main_process:
            return {}
        self.searcher = Searcher(
            self.store,
            model,
            reading.data,
            accelerator.device,
            templates=self.asked.templates or "{}",
        )
        return {**self._facts(), **_sum(changes)}

    def _add(
        self,
        model: VideoModel,
        config: EvalConfig,
        source: VideoSource,
        reading: EmbeddingConfig,
        accelerator: Accelerator,
        retry: bool,
    ) -> dict[str, Any]:
        from vactk.retrieval.index.update import update_index

        assert self.store is not None
        try:
            change = update_index(
                self.store,
                model,
                source,
                reading,
                accelerator,
                batch_size=config.batch_size,
                retry=retry,
                progress=self.shown.progress("videos"),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"index '{self.store.name}' keeps what was read; the same command goes on from there"
            ) from None
        if change.failed and len(change.failed) == len(source.items):
            raise VactkError(
                f"none of the videos could be read; the first: {next(iter(change.failed.values()))}"
            )
        return change.to_json()

    def search(
        self, queries: Sequence[str], like: Sequence[Path], wanted: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Hits of every query and of every video to compare with."""
        from vactk.retrieval.hits import SearchFilter

        assert self.searcher is not None
        assert self.store is not None
        limits = SearchFilter(**wanted)
        started_s = time.perf_counter()
        found: list[tuple[str, str, list[Hit]]] = []
        if queries:
            by_text = self.searcher.by_text(queries, limits)
            found += [("query", query, hits) for query, hits in zip(queries, by_text, strict=True)]
        found += [("like", str(video), self.searcher.by_video(video, limits)) for video in like]
        latency_ms = 1000 * (time.perf_counter() - started_s)
        for text in self.searcher.cut:
            self.shown.message(f"the query is longer than the model reads, and was cut: '{text[:60]}...'")
        self.hits = {text if kind == "query" else f"like {text}": hits for kind, text, hits in found}
        shown = [{kind: text, "hits": [hit.to_json() for hit in hits]} for kind, text, hits in found]
        return {
            **(shown[0] if len(shown) == 1 else {}),
            "results": shown,
            **self._facts(),
            "cut": self.searcher.cut,
            "latency_ms": latency_ms,
        }

    def _facts(self) -> dict[str, Any]:
        assert self.store is not None
        assert self.store.facts is not None
        counts, facts = self.store.counts(), self.store.facts
        return {
            "index": self.store.name,
            "videos": counts.videos,
            "entries": counts.entries,
            "search": counts.method,
            "model": facts.model,
            "reading": facts.reading,
        }

    def _open_store(self, name: str) -> Store:
        if self.asked.store is None:
            from vactk.retrieval.index.sqlite_store import LocalStore

            return LocalStore(Path(name), self.asked.search)
        kind, _, uri = self.asked.store.partition(":")
        if kind != "milvus" or not uri:
            raise VactkError(
                f"unknown --store '{self.asked.store}': it takes milvus:http://HOST:19530 or milvus:FILE.db"
            )
        from vactk.retrieval.index.milvus_store import MilvusStore

        return MilvusStore(uri, Path(name).name if self.asked.index is None else name)

    def _model_of(self, store: Store, add: Sequence[str]) -> tuple[VideoModel, EvalConfig]:
        """The model that is asked for, else the index's own, else the default one."""
        if self.asked.names_model or store.facts is None:
            return self._load(add[0] if add else "")
        made_with = store.facts.model
        checkpoint = Path(made_with["checkpoint"]) if made_with.get("checkpoint") else None
        if checkpoint is not None and not checkpoint.exists():
            raise VactkError(
                f"index '{store.name}' was made with '{checkpoint}', which is not there any more: "
                "say where it is now with --checkpoint"
            )
        overrides = merge(self.asked.overrides, {"model": made_with.get("stated", {})})
        from vactk.evaluate.setup import load_for_evaluation

        return load_for_evaluation(checkpoint, overrides, {}, self.shown.message)

    def _load(self, name: str) -> tuple[VideoModel, EvalConfig]:
        """The model of the options, with the defaults of the dataset of that name, if it is one."""
        from vactk.data.benchmarks import ALIASES
        from vactk.data.datasets import DATASETS
        from vactk.evaluate.setup import load_for_evaluation
        from vactk.recipes import read_recipe

        dataset = DATASETS.get(ALIASES.get(name.lower(), name))
        defaults = read_recipe(dataset.recipe) if dataset is not None and dataset.recipe else {}
        return load_for_evaluation(self.asked.checkpoint, self.asked.overrides, defaults, self.shown.message)

    def _model_facts(self, model: VideoModel) -> dict[str, Any]:
        """What opens the model again."""
        from vactk.config import to_dict

        if self.asked.checkpoint is None:
            return {"stated": {"backbone": to_dict(model.config.backbone)}}
        return {
            "checkpoint": str(self.asked.checkpoint.resolve()),
            "stated": self.asked.overrides.get("model", {}),
        }

    def _reading(self, config: EvalConfig) -> EmbeddingConfig:
        """The index's own, else: frames spread over each window, as many as the model was trained with."""
        from vactk.data.config import DataConfig
        from vactk.retrieval.index.update import EmbeddingConfig
        from vactk.retrieval.index.windows import WindowConfig

        data = config.data
        facts = self.store.facts if self.store is not None else None
        if facts is not None and not self.asked.names_reading:
            machine = {"decoder": data.decoder, "workers": data.workers, "timeout_s": data.timeout_s}
            return build(EmbeddingConfig, merge(facts.reading, {"data": machine}))
        return EmbeddingConfig(
            data=DataConfig(
                num_frames=data.num_frames,
                views=self.asked.views or 1,
                decoder=data.decoder,
                workers=data.workers,
                timeout_s=data.timeout_s,
            ),
            windows=WindowConfig(length_s=self.asked.window_s, stride_s=self.asked.stride_s),
        )

    def _place(self, model: VideoModel, config: EvalConfig) -> Accelerator:
        from vactk.evaluate.setup import prepare_model

        return prepare_model(model, config)

    def serve(self, host: str, port: int, ready: Callable[[str], None]) -> None:
        """The page, until Ctrl-C; `ready` hears its address."""
        from vactk.retrieval.server import serve

        assert self.searcher is not None
        assert self.store is not None
        serve(self.searcher, host=host, port=port, title=Path(self.store.name).name, ready=ready)


def _sum(changes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What several sources changed."""
    total: dict[str, Any] = {}
    for change in changes:
        for name, value in change.items():
            total[name] = total[name] + value if name in total else value
    return total
