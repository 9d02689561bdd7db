"""The loader: throughput against plain decord and one sequential decode, the cache's gain, and memory.

    python -m tests.benchmarks.loading [throughput] [cache] [memory] [--workers N] [--videos 48] [--opens 3000]

Videos are drawn, 320 x 240, 300 frames of H.264 with B-frames and a key frame every 250. Eight frames of each
are read, scaled and cropped to 224, normalised and stacked in batches of 8. All ways are run in turn, and
medians taken. Ratios above 1 mean that vactk is faster.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import av
import torch
from torch.utils.data import DataLoader, Dataset

from tests.video.conftest import write_video
from vactk.data.batch_sampler import TrainBatches
from vactk.data.clip_cache import build_cache
from vactk.data.config import DataConfig, ImageSpec
from vactk.data.records import Record
from vactk.data.video_dataset import VideoDataset, eval_loader, train_loader
from vactk.video import uniform_segments
from vactk.video.transforms import TransformConfig, eval_transform

# isort: split
import decord  # after PyAV, whose libvpx fails once decord's is there

PICTURE = ImageSpec(224, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
BATCH = 8


class PlainDecord(Dataset):
    """What most published code does: open, get_batch, transform."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.transform = eval_transform(TransformConfig(), *PICTURE)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> torch.Tensor:
        reader = decord.VideoReader(str(self.paths[place]), num_threads=1)
        frames = reader.get_batch(uniform_segments(len(reader), 8)[0].tolist()).asnumpy()
        return self.transform(torch.from_numpy(frames).permute(0, 3, 1, 2))


def with_vactk(records: tuple[Record, ...], workers: int) -> None:
    dataset = VideoDataset(records, DataConfig(workers=workers), PICTURE, train=False)
    assert sum(len(batch.indices) for batch in eval_loader(dataset, BATCH)) == len(records)


def with_decord(records: tuple[Record, ...], workers: int) -> None:
    loader = DataLoader(
        PlainDecord([r.video for r in records]),
        BATCH,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        worker_init_fn=lambda _: torch.set_num_threads(1),
    )
    assert sum(len(batch) for batch in loader) == len(records)


def in_order(records: tuple[Record, ...], workers: int) -> None:
    """One process decodes every frame and does nothing with it."""
    for record in records:
        with av.open(str(record.video)) as container:
            container.streams.video[0].thread_type = "NONE"
            container.streams.video[0].codec_context.thread_count = 1
            for _ in container.decode(video=0):
                pass


def train_once(records: tuple[Record, ...], config: DataConfig) -> None:
    dataset = VideoDataset(records, config, PICTURE, train=True)
    batches = TrainBatches(len(records), BATCH, seed=0, steps=range(len(records) // BATCH))
    assert sum(len(batch.indices) for batch in train_loader(dataset, batches))


def rates(ways: dict[str, Callable[[], None]], count: int, repeats: int) -> dict[str, float]:
    """Median videos per second of each way."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return {name: count / statistics.median(times) for name, times in taken.items()}


def draw(folder: Path, count: int) -> tuple[Record, ...]:
    """`count` files, of which a few are drawn and the others copies."""
    options = {"preset": "medium", "x264-params": "bframes=3"}
    drawn = [
        write_video(folder / f"{n}.mp4", num_frames=300, size=(240, 320), keyframe_every=250, options=options)
        for n in range(min(count, 4))
    ]
    for number in range(len(drawn), count):
        shutil.copyfile(drawn[number % len(drawn)], folder / f"{number}.mp4")
    return tuple(Record(video=folder / f"{n}.mp4", label=0) for n in range(count))


def throughput(records: tuple[Record, ...], workers: int, repeats: int) -> None:
    for number in sorted({1, workers}):
        found = rates(
            {
                "vactk": lambda number=number: with_vactk(records, number),
                "decord": lambda number=number: with_decord(records, number),
                "sequential decode": lambda: in_order(records, 0),
            },
            len(records),
            repeats,
        )
        print(
            f"{number} workers: " + ", ".join(f"{name} {rate:.1f} videos/s" for name, rate in found.items())
        )
        for name in ("decord", "sequential decode"):
            print(f"  vactk / {name}: {found['vactk'] / found[name]:.2f}")


def cache(records: tuple[Record, ...], workers: int, repeats: int, folder: Path) -> None:
    start = time.perf_counter()
    made = build_cache(records, folder / "cache", workers=workers)
    size_mib = made.num_bytes / made.num_videos / 2**20
    print(f"cache: made in {time.perf_counter() - start:.1f} s, {size_mib:.1f} MiB a video")
    plain, cached = DataConfig(workers=workers), DataConfig(workers=workers, cache=str(folder / "cache"))
    found = rates(
        {"decoding": lambda: train_once(records, plain), "cache": lambda: train_once(records, cached)},
        len(records),
        repeats,
    )
    print(", ".join(f"{name} {rate:.1f} videos/s" for name, rate in found.items()), end=": ")
    print(f"the cache's gain is {found['cache'] / found['decoding']:.2f}")


def resident_mib(pid: int) -> float:
    """What a process holds for itself; batches on their way, in shared memory, are not counted."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {line.split()[0]: line.split()[1] for line in lines if line.startswith(("RssAnon", "RssFile"))}
    return sum(int(kib) for kib in sizes.values()) / 1024


def memory(records: tuple[Record, ...], opens: int, folder: Path) -> None:
    """One worker opens good and broken videos, over and over."""
    (folder / "broken.mp4").write_bytes(records[0].video.read_bytes()[:5000])
    (folder / "empty.mp4").write_bytes(b"")
    broken = tuple(Record(video=folder / name, label=0) for name in ("broken.mp4", "empty.mp4"))
    mixed = (*records[:30], *broken)
    dataset = VideoDataset(
        (mixed * (opens // len(mixed) + 1))[:opens], DataConfig(workers=1), PICTURE, train=False
    )
    done, seen = 0, list[tuple[float, float]]()
    for batch in eval_loader(dataset, BATCH):
        done += len(batch.indices) + len(batch.failures)
        (child,) = torch.multiprocessing.active_children()
        seen.append((resident_mib(os.getpid()), resident_mib(child.pid)))
        if done % 500 < BATCH:  # a worker holds more or less of a batch at any moment: look at the range
            for name, sizes in zip(("here", "in the worker"), zip(*seen, strict=True), strict=True):
                print(f"{done:5} opens, {name}: {min(sizes):.0f} to {max(sizes):.0f} MiB", flush=True)
            seen.clear()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=["throughput", "cache", "memory", []])
    parser.add_argument("--workers", type=int, default=DataConfig().num_workers)
    parser.add_argument("--videos", type=int, default=48)
    parser.add_argument("--opens", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    parts = options.parts or ["throughput", "cache", "memory"]
    warnings.simplefilter("ignore")
    decord.logging.set_level(decord.logging.QUIET)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = draw(folder, options.videos)
        if "throughput" in parts:
            throughput(records, options.workers, options.repeats)
        if "cache" in parts:
            cache(records, options.workers, options.repeats, folder)
        if "memory" in parts:
            memory(records, options.opens, folder)


if __name__ == "__main__":
    main()
