"""Hits of a search, the filter on them, and the interface of an index that can be searched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vactk.errors import VactkError
from vactk.retrieval.index.file_identity import UNKNOWN, FileIdentity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A video of the index, or a window of it, as the answer to a query."""

    rank: int  # from 1
    score: float  # cosine similarity to the query
    key: int  # names the entry within its index
    video: Path
    start_s: float
    end_s: float
    label: str = ""
    known_file: FileIdentity = UNKNOWN  # as it was indexed

    def to_json(self) -> dict[str, Any]:
        """The keys that scripts rely on."""
        kept = {name: value for name, value in vars(self).items() if name != "known_file"}
        return {**kept, "video": str(self.video)}


@dataclass(frozen=True, kw_only=True)
class SearchFilter:
    """Which hits count."""

    top: int = 10
    min_score: float | None = None
    path: str = ""  # pattern of the video's path with * and ?, without regard to case; a part of it will do
    label: str = ""  # of the video, without regard to case
    per_video: int = 0  # windows of one video; 0: as many as there are

    def __post_init__(self) -> None:
        if self.top < 1:
            raise VactkError(f"--top must be at least 1, got {self.top}")
        if self.per_video < 0:
            raise VactkError(f"--per-video must be at least 0, got {self.per_video}")


class Searchable(Protocol):
    """An index together with the model that made it."""

    def by_text(self, queries: Sequence[str], wanted: SearchFilter) -> list[list[Hit]]:
        """Hits of each query, the best first. Raises VactkError for an empty or enormous query."""
        ...

    def by_video(self, video: Path, wanted: SearchFilter) -> list[Hit]:
        """Videos like another. Raises VactkError where that cannot be read."""
        ...

    @property
    def read_video(self) -> Callable[[Path], NDArray[np.float32]]:
        """What reads a video to search with, in any process. It raises VactkError."""
        ...

    def embed(self, views: NDArray[np.float32]) -> Tensor:
        """Return (1, E) of what `read_video` gives."""
        ...

    def by_vector(self, vector: Tensor, wanted: SearchFilter) -> list[Hit]:
        """Return the hits of what `embed` gives."""
        ...

    def entry(self, key: int) -> Hit | None:
        """Return the entry that a hit's key names, with rank and score 0; None if it is not in the index."""
        ...

    def labels(self) -> list[str]:
        """All labels of the videos, sorted."""
        ...

    @property
    def num_videos(self) -> int: ...

    @property
    def num_entries(self) -> int: ...

    @property
    def model_name(self) -> str: ...
