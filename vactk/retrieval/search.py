"""Searches an index by text and by video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vactk.data.config import DataConfig
from vactk.data.records import Record
from vactk.data.windows import Piece, WindowBatch, WindowConfig, WindowDataset, collate
from vactk.data.worker_pool import BatchLoader
from vactk.errors import VactkError
from vactk.evaluate.embedding import embed_texts, embed_views
from vactk.evaluate.scoring import image_spec
from vactk.models.video_model import VideoModel
from vactk.retrieval.hits import Hit, SearchFilter
from vactk.retrieval.index.embedding import check_query
from vactk.retrieval.index.store import Neighbors, Store, thin_out
from vactk.text.templates import choose_templates

MORE = 4  # candidates looked at for each hit, as some are left out
LONGEST_TOP = 10_000


class Searcher:
    """An index together with the model that made it: a `Searchable`."""

    def __init__(
        self,
        store: Store,
        model: VideoModel,
        data: DataConfig,
        device: torch.device,
        *,
        templates: str = "{}",
    ) -> None:
        """`data`: how a video that is searched with becomes frames. The model must be on `device`."""
        self.store = store
        self.model = model
        self.data = data
        self.device = device
        self.templates = choose_templates(templates)
        self.cut: list[str] = []  # queries of the last call that were longer than the text tower reads

    @property
    def num_videos(self) -> int:
        return self.store.counts().videos

    def labels(self) -> list[str]:
        """All labels of the videos, sorted."""
        return self.store.labels()

    def entry(self, key: int) -> Hit | None:
        """Return the entry that a hit's key names, with rank and score 0; None if it is not in the index."""
        found = self.store.entries([key]).get(key)
        return None if found is None else Hit(rank=0, score=0.0, key=key, **found._asdict())

    def by_text(self, queries: Sequence[str], wanted: SearchFilter) -> list[list[Hit]]:
        """Hits of each query, the best first. Raises VactkError for an empty or enormous query."""
        texts = [check_query(query) for query in queries]
        self._check_size(wanted)
        prompts = [template.format(text) for text in texts for template in self.templates]
        embedded = embed_texts(self.model, prompts, self.device)
        self.cut = list(dict.fromkeys(texts[place // len(self.templates)] for place in embedded.cut))
        vectors = embedded.vectors.unflatten(0, (len(texts), -1)).mean(dim=1)  # (Q, E)
        return self._search(F.normalize(vectors, dim=-1), wanted)

    def by_video(self, video: Path, wanted: SearchFilter) -> list[Hit]:
        """Videos like another, without that one. Raises VactkError where it cannot be read."""
        self._check_size(wanted)
        paths = (video, video.resolve())  # of a link in the index, the first
        own = next((found for path in paths if (found := self.store.vectors(path)) is not None), None)
        vector = self._embed(video) if own is None else F.normalize(own.mean(dim=0, keepdim=True), dim=-1)
        (hits,) = self._search(vector, wanted, without=paths)
        return hits

    def _embed(self, video: Path) -> Tensor:
        """(1, E) of a video that is not in the index, as a whole."""
        dataset = WindowDataset([Record(video=video)], WindowConfig(), self.data, image_spec(self.model))
        read: WindowBatch
        (read,) = BatchLoader(  # in a worker, whatever data.workers says: it may hang
            dataset,
            [[Piece(0, 0, True)]],
            collate,
            workers=1,
            timeout_s=self.data.timeout_s,
            batch_bytes=dataset.window_bytes,
        )
        (piece,) = read.pieces
        if piece.error is not None:
            raise VactkError(piece.error)
        return embed_views(self.model, read.views(0, 1).to(self.device)).cpu()

    def _search(
        self, vectors: Tensor, wanted: SearchFilter, *, without: Sequence[Path] = ()
    ) -> list[list[Hit]]:
        """Looks at more candidates until there are enough hits, or no more candidates."""
        size = self.store.counts().entries
        results: list[list[Hit]] = [[] for _ in vectors]
        places = list(range(len(vectors)))
        count = min(size, MORE * wanted.top)
        while places and count:
            found = self.store.nearest(vectors[places], count, wanted)
            entries = self.store.entries({key for one in found for key in one.keys})
            entries = {key: entry for key, entry in entries.items() if entry.video not in without}
            short = []
            for place, one in zip(places, found, strict=True):
                results[place] = thin_out(one, entries, wanted)
                if len(results[place]) < wanted.top and _may_have_more(one, count, wanted):
                    short.append(place)
            if count == size:
                break
            places, count = short, min(size, MORE * count)
        return results

    def _check_size(self, wanted: SearchFilter) -> None:
        if wanted.top > LONGEST_TOP:
            raise VactkError(f"--top must be at most {LONGEST_TOP:,}, got {wanted.top:,}")


def _may_have_more(found: Neighbors, count: int, wanted: SearchFilter) -> bool:
    if len(found.keys) < count:
        return False
    return wanted.min_score is None or found.scores[-1] >= wanted.min_score
