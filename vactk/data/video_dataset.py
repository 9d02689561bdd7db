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
from vactk.data.clip_cache import FrameCache
from vactk.data.config import DataConfig, ImageSpec, OpenVCLIPSampling, Sampling
from vactk.data.records import Record
from vactk.data.worker_pool import BatchLoader
from vactk.errors import VactkError
from vactk.video.container import VideoError, VideoWarning
from vactk.video.reader import Sample, Timeline, sample_video
from vactk.video.transforms import eval_transform, train_transform


def released_sampling(config: DataConfig, dataset: str) -> DataConfig:
    """Return `config` for evaluation on `dataset`, with `starts: release` resolved as the released scripts do."""
    sampling = config.sampling
    if not isinstance(sampling, OpenVCLIPSampling) or sampling.starts != "release":
        return config
    starts: Literal["container", "spread"] = "spread" if dataset.startswith("hmdb51") else "container"
    return dataclasses.replace(config, sampling=dataclasses.replace(sampling, starts=starts))


class ReadError(NamedTuple):
    """A video that could not be read, or only in part."""

    record_index: int
    video: str
    message: str


SHORT = "are shorter than a view; frames are repeated"
UNTIMED = "have frames without time stamps; even spacing is assumed"
NO_RATE = "have no frame rate in their headers; the mean rate of their time stamps is used"
UNCOUNTED = "have no frame count in their headers; the decoded frames are counted"


def sampling_notes(sampling: Sampling, timeline: Timeline, num_frames: int) -> tuple[str, ...]:
    """Return the assumptions made in sampling a video, worded to follow "N videos"."""
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
    """One record: its views, or the error that prevented reading it."""

    record_index: int
    label: int
    views: Tensor | None  # (V, T, 3, H, W) float32; None where nothing could be read
    error: ReadError | None  # with `views`: only a part could be read
    notes: tuple[str, ...] = ()  # from `sampling_notes`
    random_draw: float = 0.0  # uniform in [0, 1): picks one of several descriptions, for example
    times_s: Tensor | None = None  # (temporal views * T,) float64, of the frames read; with `views`


class Batch(NamedTuple):
    """The videos of one step. Unreadable ones are not in the tensors."""

    video: Tensor  # (B, V, T, 3, H, W)
    labels: Tensor  # (B,) int64, -1 where unknown
    indices: Tensor  # (B,) int64, into the records
    random_draws: Tensor  # (B,) float32, uniform in [0, 1)
    failures: list[ReadError]
    partial: list[ReadError]  # read as far as they go
    notes: list[str]  # from `sampling_notes`, once per video concerned
    times_s: Tensor  # (B, temporal views * T) float64, of the frames read


class VideoDataset(Dataset[VideoSample]):
    """Records read on demand. The key (epoch, index) fixes every random choice, whichever process reads it."""

    def __init__(
        self, records: Sequence[Record], config: DataConfig, image: ImageSpec, *, train: bool, seed: int = 0
    ) -> None:
        """Raises VactkError where the cache in `config` is absent, or its frames are smaller than the model's."""
        self.records = records
        self.config = config
        self.train = train
        self.seed = seed
        self.image = image
        self.cache = FrameCache(Path(config.cache)) if train and config.cache else None
        if self.cache is not None and self.cache.short_side < image.size:
            raise VactkError(
                f"the cache in '{config.cache}' has frames of {self.cache.short_side} pixels, fewer than the "
                f"model's {image.size}; rebuild it with --short-side {image.size} or more"
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
                views, sample, notes = self._read(record)
            except VideoError as error:
                return VideoSample(index, label, None, ReadError(index, str(record.video), str(error)))
            random_draw = float(torch.rand(()))
        partial = None if sample.complete else ReadError(index, str(record.video), str(sample.warning))
        return VideoSample(index, label, views, partial, notes, random_draw, sample.times_s)

    def failed(self, key: Key, reason: str) -> VideoSample:
        """Return the sample of a record whose decoder hung or crashed."""
        index = key[1]
        record = self.records[index]
        label = -1 if record.label is None else record.label
        message = str(VideoError(record.video, reason))
        return VideoSample(index, label, None, ReadError(index, str(record.video), message))

    def _read(self, record: Record) -> tuple[Tensor, Sample, tuple[str, ...]]:
        """Return (views (V, T, 3, H, W), the sample, notes); V is 1 in training, else temporal views x crops."""
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
        frames = sample.frames.unflatten(0, (views, config.num_frames))  # (V, T, 3, H, W) uint8
        if self.train:
            transform = train_transform(config.transform, *self.image)
            return transform(frames[0])[None], sample, notes
        crops = eval_transform(config.transform, *self.image)
        return torch.cat([crops(view) for view in frames]), sample, notes


def train_loader(dataset: VideoDataset, batches: TrainBatches) -> BatchLoader[Key, VideoSample, Batch]:
    """Load micro-batches in the order of `batches`, read ahead by the workers of `dataset.config`."""
    size = batches.batch_size // (batches.world * batches.micro_batches)
    return _loader(dataset, batches, size)


def eval_loader(
    dataset: VideoDataset, batch_size: int, *, rank: int = 0, world: int = 1
) -> BatchLoader[Key, VideoSample, Batch]:
    """Load every `world`-th record from `rank` on, in order, none repeated or dropped."""
    keys = [(0, index) for index in range(rank, len(dataset), world)]
    batch_size = min(batch_size, max(1, len(keys)))
    batches = [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
    return _loader(dataset, batches, batch_size * dataset.config.views * dataset.config.transform.eval_crops)


def collate(samples: list[VideoSample]) -> Batch:
    """Stack samples into one batch, with unreadable videos listed apart."""
    read = [sample for sample in samples if sample.views is not None]
    views = [sample.views for sample in read if sample.views is not None]
    times_s = [sample.times_s for sample in read if sample.times_s is not None]
    return Batch(
        video=torch.stack(views) if views else torch.empty(0),
        labels=torch.tensor([sample.label for sample in read], dtype=torch.long),
        indices=torch.tensor([sample.record_index for sample in read], dtype=torch.long),
        random_draws=torch.tensor([sample.random_draw for sample in read], dtype=torch.float32),
        failures=[s.error for s in samples if s.error is not None and s.views is None],
        partial=[s.error for s in samples if s.error is not None and s.views is not None],
        notes=[note for sample in samples for note in sample.notes],
        times_s=torch.stack(times_s) if times_s else torch.empty(0, dtype=torch.float64),
    )


def _loader(
    dataset: VideoDataset, batches: Iterable[list[Key]], num_views: int
) -> BatchLoader[Key, VideoSample, Batch]:
    config, size = dataset.config, dataset.image.size
    return BatchLoader(
        dataset,
        batches,
        collate,
        workers=config.num_workers,
        timeout_s=config.timeout_s,
        batch_bytes=num_views * config.num_frames * 3 * size * size * 4,
        finish=_pin if torch.cuda.is_available() else _keep,
    )


def _keep(batch: Batch) -> Batch:
    return batch


def _pin(batch: Batch) -> Batch:
    return batch._replace(video=batch.video.pin_memory())
