"""The index of the library: search videos by text or by video, with the model that made the index."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vactk.config import build, merge
from vactk.data.config import DataConfig
from vactk.errors import VactkError
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.model import settings_of
from vactk.evaluate.setup import load_for_evaluation, prepare_model
from vactk.models.video_model import VideoModel
from vactk.retrieval.hits import Hit, SearchFilter
from vactk.retrieval.index.embedding import model_fingerprint
from vactk.retrieval.index.sqlite_store import LocalStore
from vactk.retrieval.index.update import EmbeddingConfig, check_model
from vactk.retrieval.search import Searcher


class Index:
    """Videos that `vactk retrieve --index FOLDER --add ...` has indexed.

    `Index.open("my-index").search("a red star moving left", top=5)[0].video`
    """

    def __init__(self, searcher: Searcher) -> None:
        """Wrap a searcher; `Index.open` makes one."""
        self.searcher = searcher

    @classmethod
    def open(
        cls, folder: str | Path, *, model: VideoModel | None = None, settings: Mapping[str, Any] | None = None
    ) -> Index:
        """Open an index folder with the model that made it.

        `model`: that model, where it is loaded already, or its checkpoint has moved. `settings` are overrides by
        a recipe's keys, nested, such as {"run": {"device": "cpu"}}. Raises VactkError when there is no index, or
        another model made it.
        """
        store = LocalStore(Path(folder))
        if store.facts is None:
            raise VactkError(
                f"there is no index in '{folder}': create it with vactk retrieve --index '{folder}' --add VIDEOS"
            )
        facts, overrides = store.facts, settings or {}
        if model is None:
            log = logging.getLogger("vactk").info
            model, config = load_index_model(store.name, facts.model, overrides, log)
        else:
            config = settings_of(model)
        embedding = build(EmbeddingConfig, merge(facts.reading, {"data": machine_settings(config.data)}))
        check_model(store, model_fingerprint(model), embedding)
        accelerator = prepare_model(model, config)
        return cls(Searcher(store, model, embedding.data, accelerator.device))

    def __len__(self) -> int:
        return self.searcher.num_videos

    def search(self, text: str, *, top: int = 10, **limits: Any) -> list[Hit]:
        """Return the `top` entries nearest to a text; `limits` are the other fields of SearchFilter."""
        if not isinstance(text, str):
            raise VactkError(f"a query is text, got {type(text).__name__}; search_video takes a path")
        (hits,) = self.searcher.by_text([text], SearchFilter(top=top, **limits))
        return hits

    def search_video(self, video: str | Path, *, top: int = 10, **limits: Any) -> list[Hit]:
        """Return the `top` entries nearest to a video file, without that video."""
        return self.searcher.by_video(Path(video), SearchFilter(top=top, **limits))


def load_index_model(
    index: str, made_with: Mapping[str, Any], overrides: Mapping[str, Any], message: Callable[[str], None]
) -> tuple[VideoModel, EvalConfig]:
    """Load the model that an index was made with. Raises VactkError when its checkpoint no longer exists."""
    checkpoint = Path(made_with["checkpoint"]) if made_with.get("checkpoint") else None
    if checkpoint is not None and not checkpoint.exists():
        raise VactkError(
            f"index '{index}' was made with '{checkpoint}', which no longer exists: "
            "give its new location with --checkpoint"
        )
    overrides = merge(overrides, {"model": made_with.get("stated", {})})
    return load_for_evaluation(checkpoint, overrides, {}, message)


def machine_settings(data: DataConfig) -> dict[str, Any]:
    """Return the settings that depend on the machine, and change no vector."""
    return {"decoder": data.decoder, "workers": data.workers, "timeout_s": data.timeout_s}
