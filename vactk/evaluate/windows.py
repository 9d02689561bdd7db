"""Embed videos window by window, each video decoded in one pass, over one process or many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vactk.data.config import DataConfig
from vactk.data.records import Record
from vactk.data.windows import (
    CHUNK,
    Durations,
    Piece,
    WindowBatch,
    WindowConfig,
    WindowDataset,
    collate,
    pieces,
)
from vactk.data.worker_pool import BatchLoader
from vactk.distributed import Accelerator, broadcast_object, gather_object
from vactk.evaluate.embedding import embed_views
from vactk.evaluate.scoring import image_spec
from vactk.models.video_model import VideoModel
from vactk.progress import Progress


class EmbeddedWindows(NamedTuple):
    """The windows of a video, embedded; without any where it could not be read."""

    record_index: int
    vectors: Tensor  # (W, E) float32 on the CPU, unit norm
    spans: list[tuple[float, float]]  # in seconds of the file
    problem: str  # why it could not be read
    warning: str  # why it could be read only in part


@torch.no_grad()
def embed_windows(
    model: VideoModel,
    records: Sequence[Record],
    windows: WindowConfig,
    data: DataConfig,
    accelerator: Accelerator,
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> Iterator[list[EmbeddedWindows]]:
    """Yield the windows of all videos in their order, some videos at a time, the same on every process.

    A batch holds the same videos wherever one starts, so that its vectors are the same to the last bit. The model
    must be on the accelerator's device, and in evaluation mode. `progress` counts pieces of videos.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    dataset = WindowDataset(records, windows, data, image_spec(model))
    batches = _batches(_all_pieces(dataset, accelerator), batch_size)
    reader = iter(
        BatchLoader(
            dataset,
            batches[rank::world],
            collate,
            workers=data.num_workers,
            timeout_s=data.timeout_s,
            batch_bytes=max(batch_size, CHUNK) * dataset.window_bytes,
        )
    )
    open_pieces: dict[int, list[_EmbeddedPiece]] = {}
    done, total = 0, sum(map(len, batches))
    for start in range(0, len(batches), world):
        has_one = start + rank < len(batches)
        parts = _embed(model, next(reader), accelerator, batch_size) if has_one else []
        finished = []
        for part in gather_object(parts):
            open_pieces.setdefault(part.piece.place, []).append(part)
            if part.piece.is_last:
                finished.append(_joined(part.piece.place, open_pieces.pop(part.piece.place)))
            done += 1
        if finished:
            yield finished
        if progress is not None:
            progress(done, total)


class _EmbeddedPiece(NamedTuple):
    """A piece of a video, embedded."""

    piece: Piece
    vectors: Tensor  # (W, E) on the CPU
    spans: list[tuple[float, float]]
    error: str | None
    warning: str | None


def _embed(
    model: VideoModel, batch: WindowBatch, accelerator: Accelerator, batch_size: int
) -> list[_EmbeddedPiece]:
    found = []
    for first in range(0, len(batch.chosen), batch_size):
        views = batch.views(first, first + batch_size)
        with accelerator.autocast():
            found.append(embed_views(model, views.to(accelerator.device, non_blocking=True)).cpu())
    counts = [len(piece.spans) for piece in batch.pieces]
    vectors = torch.cat(found) if found else torch.empty(0)
    parts = []
    for piece, own in zip(batch.pieces, vectors.split(counts), strict=True):
        error = piece.error if torch.isfinite(own).all() else "its embedding is not finite"
        parts.append(_EmbeddedPiece(piece.piece, own, piece.spans, error, piece.warning))
    return parts


def _joined(index: int, parts: Sequence[_EmbeddedPiece]) -> EmbeddedWindows:
    parts = sorted(parts, key=lambda part: part.piece.first)
    problem = next((part.error for part in parts if part.error), "")
    warning = next((part.warning for part in parts if part.warning), "")
    read = [part for part in parts if len(part.spans)]
    if problem or not read:
        return EmbeddedWindows(index, torch.empty(0), [], problem or "it has no frames", warning)
    spans = [span for part in read for span in part.spans]
    return EmbeddedWindows(index, torch.cat([part.vectors for part in read]), spans, "", warning)


def _all_pieces(dataset: WindowDataset, accelerator: Accelerator) -> list[list[Piece]]:
    """The pieces of each video; what headers say of their length is asked once, by the main process."""
    records, windows, data = dataset.records, dataset.windows, dataset.config
    if not windows.length_s:
        return [[Piece(place, 0, True)] for place in range(len(records))]
    durations: list[float | None] = []
    if accelerator.is_main_process:
        groups = [list(range(i, min(i + 64, len(records)))) for i in range(0, len(records), 64)]
        reader = BatchLoader(
            Durations(records), groups, list, workers=data.num_workers, timeout_s=data.timeout_s
        )
        durations = [duration_s for group in reader for duration_s in group]
    everywhere = broadcast_object(durations)
    return [
        pieces(place, duration_s, windows, dataset.per_piece) for place, duration_s in enumerate(everywhere)
    ]


def _batches(videos: Sequence[list[Piece]], batch_size: int) -> list[list[Piece]]:
    """Group short videos; each piece of a long one is a batch of its own."""
    batches: list[list[Piece]] = []
    group: list[Piece] = []
    for own in videos:
        if len(own) == 1 and len(group) < batch_size:
            group += own
            continue
        batches += [group] if group else []
        group = []
        if len(own) == 1:
            group += own
        else:
            batches += [[piece] for piece in own]
    return [*batches, group] if group else batches
