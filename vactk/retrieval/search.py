"""Searches an index by text and by video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vactk.data.config import DataConfig
from vactk.data.isolated_read import read_isolated
from vactk.data.windows import read_whole
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

    @property
    def num_entries(self) -> int:
        return self.store.counts().entries

    @property
    def model_name(self) -> str:
        return "" if self.store.facts is None else self.store.facts.model_name

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
        if own is None:
            vector = self.embed(read_isolated(self.read_video, video, timeout_s=self.data.timeout_s))
        else:
            vector = F.normalize(own.mean(dim=0, keepdim=True), dim=-1)
        (hits,) = self._search(vector, wanted, without=paths)
        return hits

    @property
    def read_video(self) -> Callable[[Path], NDArray[np.float32]]:
        """What reads a video to search with; it can be sent to another process."""
        return partial(read_whole, config=self.data, picture=image_spec(self.model))

    def embed(self, views: NDArray[np.float32]) -> Tensor:
        """(1, E) of what `read_video` gives."""
        return embed_views(self.model, torch.from_numpy(views)[None].to(self.device)).cpu()

    def by_vector(self, vector: Tensor, wanted: SearchFilter) -> list[Hit]:
        """Hits of a vector (1, E) by `embed`."""
        self._check_size(wanted)
        (hits,) = self._search(vector, wanted)
        return hits

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
