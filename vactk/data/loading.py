"""Records as batches of normalised frames, read in worker processes."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vactk import config as settings
from vactk.data.batches import Key, TrainBatches, derive_seed
from vactk.data.clip_cache import ClipCache
from vactk.data.records import Record
from vactk.data.workers import BatchReader, usable_processors
from vactk.errors import VactkError
from vactk.video.container import VideoError, VideoWarning
from vactk.video.read import Timeline, sample_video
from vactk.video.sampling import (
    dense_clips,
    m2clip_clips,
    m2clip_segments,
    openvclip_clips,
    openvclip_starts,
    uniform_segments,
)
from vactk.video.transforms import TransformConfig, eval_transform, train_transform

Sampler = Callable[[Timeline], Tensor]


@dataclass(frozen=True, kw_only=True)
class UniformSampling:
    """One frame from each of equal segments: random within it in training, its centre in testing."""

    def span(self, timeline: Timeline, num_frames: int) -> float:
        """How many frames of a video a view needs, if none is to be repeated."""
        return num_frames

    def indices(self, timeline: Timeline, num_frames: int, views: int, *, train: bool) -> Tensor:
        """Frame numbers (V, T)."""
        generator = torch.default_generator if train else None
        return uniform_segments(timeline.num_frames, num_frames, num_views=views, generator=generator)


@dataclass(frozen=True, kw_only=True)
class DenseSampling:
    """Frames in a row: from a random start in training, evenly spread starts in testing."""

    stride: int = 16  # frames from one to the next; Open-VCLIP's value

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise VactkError(f"stride must be at least 1, got {self.stride}")

    def span(self, timeline: Timeline, num_frames: int) -> float:
        """How many frames of a video a view needs, if none is to be repeated."""
        return self.stride * (num_frames - 1) + 1

    def indices(self, timeline: Timeline, num_frames: int, views: int, *, train: bool) -> Tensor:
        """Frame numbers (V, T)."""
        generator = torch.default_generator if train else None
        return dense_clips(timeline.num_frames, num_frames, self.stride, num_views=views, generator=generator)


@dataclass(frozen=True, kw_only=True)
class OpenVCLIPSampling:
    """The frames that Open-VCLIP's release takes, by what the container says of its time."""

    stride: int = 16  # frames from one to the next in a video of `fps`
    fps: float = 30.0  # frames per second that strides are counted in
    # where several views start: by whether the container states a duration; spread from end to end, as where it
    # does not; or as the released scripts for the dataset have it, which spread HMDB51's
    starts: Literal["release", "container", "spread"] = "release"

    def __post_init__(self) -> None:
        if self.stride < 1 or self.fps <= 0:
            raise VactkError(f"stride must be at least 1 and fps above 0, got {self.stride} and {self.fps}")

    def span(self, timeline: Timeline, num_frames: int) -> float:
        """How many frames of a video a view needs, if none is to be repeated."""
        return self.stride * (num_frames - 1) / self.fps * timeline.clock.rate

    def indices(self, timeline: Timeline, num_frames: int, views: int, *, train: bool) -> Tensor:
        """Frame numbers (V, T)."""
        generator = torch.default_generator if train else None
        clock = timeline.clock
        if self.starts == "spread":
            clock = dataclasses.replace(clock, stated_ticks=0)
        starts = openvclip_starts(
            clock, num_frames, self.stride, target_fps=self.fps, num_views=views, generator=generator
        )
        return openvclip_clips(clock, num_frames, self.stride, starts, target_fps=self.fps)


@dataclass(frozen=True, kw_only=True)
class M2CLIPSampling:
    """The frames that M2-CLIP's release takes."""

    stride: int = 16  # frames from one to the next; 0: one of each of equal segments

    def __post_init__(self) -> None:
        if self.stride < 0:
            raise VactkError(f"stride must be at least 0, got {self.stride}")

    def span(self, timeline: Timeline, num_frames: int) -> float:
        """How many frames of a video a view needs, if none is to be repeated."""
        return self.stride * (num_frames - 1) + 1 if self.stride else num_frames

    def indices(self, timeline: Timeline, num_frames: int, views: int, *, train: bool) -> Tensor:
        """Frame numbers (V, T)."""
        generator = torch.default_generator if train else None
        order = timeline.clock.order
        if self.stride:
            found = m2clip_clips(len(order), num_frames, self.stride, num_views=views, generator=generator)
        else:
            found = m2clip_segments(len(order), num_frames, num_views=views, generator=generator)
        return order[found]


def released_sampling(config: DataConfig, dataset: str) -> DataConfig:
    """The settings to test with on a dataset, where those of the sampling leave that to the release."""
    sampling = config.sampling
    if not isinstance(sampling, OpenVCLIPSampling) or sampling.starts != "release":
        return config
    starts: Literal["container", "spread"] = "spread" if dataset.startswith("hmdb51") else "container"
    return dataclasses.replace(config, sampling=dataclasses.replace(sampling, starts=starts))


Sampling = UniformSampling | DenseSampling | OpenVCLIPSampling | M2CLIPSampling
SAMPLING = {
    "uniform": UniformSampling,
    "dense": DenseSampling,
    "openvclip": OpenVCLIPSampling,
    "m2clip": M2CLIPSampling,
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How videos become frames."""

    num_frames: int = 8  # frames in a view
    views: int = 1  # temporal views of a video in testing; training takes one
    view_mean: Literal["probabilities", "logits"] = "probabilities"  # of views and crops, what is averaged
    sampling: Sampling = field(default_factory=UniformSampling, metadata=settings.table(SAMPLING, "sampling"))
    transform: TransformConfig = field(default_factory=TransformConfig)
    decoder: Literal["auto", "decord", "pyav"] = "auto"
    workers: int = -1  # processes that read videos; -1: one less than the processors, 8 at most
    cache: str = ""  # folder made by `vactk data cache`: training reads from it, testing never
    exclude: str = ""  # list of videos that training leaves out, as `vactk data check` writes it
    timeout_s: float = 120.0  # after so long the reading of a video is given up; needs workers

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.views < 1:
            raise VactkError(
                f"num_frames and views must be at least 1, got {self.num_frames} and {self.views}"
            )

        if self.cache and not isinstance(self.sampling, UniformSampling):
            raise VactkError(
                "data.cache keeps evenly spread frames: it goes with data.sampling=uniform alone"
            )
        if self.timeout_s <= 0:
            raise VactkError(f"timeout_s must be above 0, got {self.timeout_s}")

    @property
    def num_workers(self) -> int:
        """`workers`, with -1 worked out for this machine."""
        return self.workers if self.workers >= 0 else max(1, min(8, usable_processors() - 1))


class Picture(NamedTuple):
    """What a backbone expects of a frame."""

    size: int  # pixels, height and width
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Problem(NamedTuple):
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


class Item(NamedTuple):
    """One record, read or failed."""

    place: int  # in the records
    label: int
    views: Tensor | None  # (V, T, 3, H, W); None where nothing could be read
    problem: Problem | None
    notes: tuple[str, ...] = ()  # what had to be chosen in sampling it
    draw: float = 0.0  # uniform in [0, 1): chooses what else there is several of, such as descriptions


class Batch(NamedTuple):
    """Videos of one step. Failed ones are not among the tensors."""

    video: Tensor  # (B, V, T, 3, H, W)
    labels: Tensor  # (B,) int64, -1 where unknown
    places: Tensor  # (B,) int64, in the records
    draws: Tensor  # (B,) float32, uniform in [0, 1)
    failures: list[Problem]
    partial: list[Problem]  # read as far as they go
    notes: list[str]  # what had to be chosen, once for each video that it was chosen for


class VideoDataset(Dataset[Item]):
    """Records read on demand. A key (epoch, index) fixes every random choice, whichever process reads it."""

    def __init__(
        self, records: Sequence[Record], config: DataConfig, picture: Picture, *, train: bool, seed: int = 0
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

    def __getitem__(self, key: Key) -> Item:
        epoch, index = key
        record = self.records[index]
        label = -1 if record.label is None else record.label
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", VideoWarning)  # it comes with the sample
            torch.manual_seed(derive_seed(self.seed, epoch, index))
            try:
                views, warning, notes = self._read(record)
            except VideoError as error:
                return Item(index, label, None, Problem(index, str(record.video), str(error)))
            draw = float(torch.rand(()))
        problem = None if warning is None else Problem(index, str(record.video), warning)
        return Item(index, label, views, problem, notes, draw)

    def failed(self, key: Key, reason: str) -> Item:
        """What stands for a record whose reading hung or crashed."""
        index = key[1]
        record = self.records[index]
        label = -1 if record.label is None else record.label
        message = str(VideoError(record.video, reason))
        return Item(index, label, None, Problem(index, str(record.video), message))

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


def train_loader(dataset: VideoDataset, batches: TrainBatches) -> BatchReader[Key, Item, Batch]:
    """Batches in the order of `batches`, read ahead by the workers of `dataset.config`."""
    size = batches.batch_size // (batches.world * batches.parts)
    return _loader(dataset, batches, size)


def eval_loader(
    dataset: VideoDataset, batch_size: int, *, rank: int = 0, world: int = 1
) -> BatchReader[Key, Item, Batch]:
    """Every `world`-th record from `rank` on, in order: nothing repeated, nothing dropped."""
    keys = [(0, index) for index in range(rank, len(dataset), world)]
    batch_size = min(batch_size, max(1, len(keys)))
    batches = [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
    return _loader(dataset, batches, batch_size * dataset.config.views * dataset.config.transform.eval_crops)


def collate(items: list[Item]) -> Batch:
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
) -> BatchReader[Key, Item, Batch]:
    config, size = dataset.config, dataset.picture.size
    return BatchReader(
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
