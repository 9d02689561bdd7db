"""Records as batches of normalised frames, read in worker processes."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vactk.data.batch_sampler import Key, TrainBatches, derive_seed
from vactk.data.clip_cache import ClipCache
from vactk.data.config import DataConfig, ImageSpec, OpenVCLIPSampling, Sampling
from vactk.data.records import Record
from vactk.data.worker_pool import BatchLoader
from vactk.errors import VactkError
from vactk.video.container import VideoError, VideoWarning
from vactk.video.reader import Timeline, sample_video
from vactk.video.transforms import eval_transform, train_transform


def released_sampling(config: DataConfig, dataset: str) -> DataConfig:
    """The settings to test with on a dataset, where those of the sampling leave that to the release."""
    sampling = config.sampling
    if not isinstance(sampling, OpenVCLIPSampling) or sampling.starts != "release":
        return config
    starts: Literal["container", "spread"] = "spread" if dataset.startswith("hmdb51") else "container"
    return dataclasses.replace(config, sampling=dataclasses.replace(sampling, starts=starts))


class ReadError(NamedTuple):
    """A video that could not be read, or not to its end."""

    place: int  # in the records
    video: str
    message: str


SHORT = "are shorter than a view, which repeats frames of theirs"
UNTIMED = "have frames without time stamps, which are taken to be evenly spaced"
NO_RATE = "have no frame rate in their headers, for which the average of their time stamps stands"
UNCOUNTED = "have no number of frames in their headers, for which those that decode are counted"


def sampling_notes(sampling: Sampling, timeline: Timeline, num_frames: int) -> tuple[str, ...]:
    """What had to be chosen for a video, as what is said of all such videos."""
    notes = [SHORT] if timeline.num_frames < sampling.span(timeline, num_frames) else []
    if isinstance(sampling, OpenVCLIPSampling):
        stated = timeline.stated
        if stated is None:
            notes.append(UNTIMED)
        elif not stated.rate_is_stated:
            notes.append(NO_RATE)
        elif stated.stated_ticks and not stated.stated_frames:
            notes.append(UNCOUNTED)
    return tuple(notes)


class VideoSample(NamedTuple):
    """One record, read or failed."""

    place: int  # in the records
    label: int
    views: Tensor | None  # (V, T, 3, H, W); None where nothing could be read
    problem: ReadError | None
    notes: tuple[str, ...] = ()  # what had to be chosen in sampling it
    draw: float = 0.0  # uniform in [0, 1): chooses what else there is several of, such as descriptions


class Batch(NamedTuple):
    """Videos of one step. Failed ones are not among the tensors."""

    video: Tensor  # (B, V, T, 3, H, W)
    labels: Tensor  # (B,) int64, -1 where unknown
    places: Tensor  # (B,) int64, in the records
    draws: Tensor  # (B,) float32, uniform in [0, 1)
    failures: list[ReadError]
    partial: list[ReadError]  # read as far as they go
    notes: list[str]  # what had to be chosen, once for each video that it was chosen for


class VideoDataset(Dataset[VideoSample]):
    """Records read on demand. A key (epoch, index) fixes every random choice, whichever process reads it."""

    def __init__(
        self, records: Sequence[Record], config: DataConfig, picture: ImageSpec, *, train: bool, seed: int = 0
    ) -> None:
        self.records = records
        self.config = config
        self.train = train
        self.seed = seed
        self.picture = picture
        self.cache = ClipCache(Path(config.cache)) if train and config.cache else None
        if self.cache is not None and self.cache.short_side < picture.size:
            raise VactkError(
                f"the cache in '{config.cache}' has frames of {self.cache.short_side} pixels, fewer than the "
                f"model's {picture.size}: make it with --short-side {picture.size} or more"
            )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> VideoSample:
        epoch, index = key
        record = self.records[index]
        label = -1 if record.label is None else record.label
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)  # it comes with the sample
            torch.manual_seed(derive_seed(self.seed, epoch, index))
            try:
                views, warning, notes = self._read(record)
            except VideoError as error:
                return VideoSample(index, label, None, ReadError(index, str(record.video), str(error)))
            draw = float(torch.rand(()))
        problem = None if warning is None else ReadError(index, str(record.video), warning)
        return VideoSample(index, label, views, problem, notes, draw)

    def failed(self, key: Key, reason: str) -> VideoSample:
        """What stands for a record whose reading hung or crashed."""
        index = key[1]
        record = self.records[index]
        label = -1 if record.label is None else record.label
        message = str(VideoError(record.video, reason))
        return VideoSample(index, label, None, ReadError(index, str(record.video), message))

    def _read(self, record: Record) -> tuple[Tensor, str | None, tuple[str, ...]]:
        """(V, T, 3, H, W), one view in training, temporal views x crops in testing; what was wrong, or chosen."""
        config, views = self.config, 1 if self.train else self.config.views
        notes: tuple[str, ...] = ()

        def sampler(timeline: Timeline) -> Tensor:
            nonlocal notes
            notes = sampling_notes(config.sampling, timeline, config.num_frames)
            return config.sampling.indices(timeline, config.num_frames, views, train=self.train).flatten()

        sample = None if self.cache is None else self.cache.sample(record, sampler)
        if sample is None:
            sample = sample_video(
                record.video, sampler, decoder=config.decoder, start_s=record.start_s, end_s=record.end_s
            )
        clips = sample.frames.unflatten(0, (views, config.num_frames))  # (V, T, 3, H, W) uint8
        if self.train:
            transform = train_transform(config.transform, *self.picture)
            return transform(clips[0])[None], sample.warning, notes
        crops = eval_transform(config.transform, *self.picture)
        return torch.cat([crops(clip) for clip in clips]), sample.warning, notes


def train_loader(dataset: VideoDataset, batches: TrainBatches) -> BatchLoader[Key, VideoSample, Batch]:
    """Batches in the order of `batches`, read ahead by the workers of `dataset.config`."""
    size = batches.batch_size // (batches.world * batches.micro_batches)
    return _loader(dataset, batches, size)


def eval_loader(
    dataset: VideoDataset, batch_size: int, *, rank: int = 0, world: int = 1
) -> BatchLoader[Key, VideoSample, Batch]:
    """Every `world`-th record from `rank` on, in order: nothing repeated, nothing dropped."""
    keys = [(0, index) for index in range(rank, len(dataset), world)]
    batch_size = min(batch_size, max(1, len(keys)))
    batches = [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
    return _loader(dataset, batches, batch_size * dataset.config.views * dataset.config.transform.eval_crops)


def collate(items: list[VideoSample]) -> Batch:
    """Items as one batch, failures apart."""
    read = [item for item in items if item.views is not None]
    video = torch.stack([item.views for item in read if item.views is not None]) if read else torch.empty(0)
    return Batch(
        video=video,
        labels=torch.tensor([item.label for item in read], dtype=torch.long),
        places=torch.tensor([item.place for item in read], dtype=torch.long),
        draws=torch.tensor([item.draw for item in read], dtype=torch.float32),
        failures=[item.problem for item in items if item.problem is not None and item.views is None],
        partial=[item.problem for item in items if item.problem is not None and item.views is not None],
        notes=[note for item in items for note in item.notes],
    )


def _loader(
    dataset: VideoDataset, batches: Iterable[list[Key]], num_views: int
) -> BatchLoader[Key, VideoSample, Batch]:
    config, size = dataset.config, dataset.picture.size
    return BatchLoader(
        dataset,
        batches,
        collate,
        workers=config.num_workers,
        timeout_s=config.timeout_s,
        batch_bytes=num_views * config.num_frames * 3 * size * size * 4,
        finish=_pinned if torch.cuda.is_available() else _as_it_is,
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _pinned(batch: Batch) -> Batch:
    return batch._replace(video=batch.video.pin_memory())
