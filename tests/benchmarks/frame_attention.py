"""The video encoder with attention over neighbouring frames against stock open_clip on the same frames.

    python -m tests.benchmarks.frame_attention [--backbone ViT-B-16] [--frames 8] [--window 1] [--repeats 7]

Random weights, float32, CPU; runs are interleaved and medians compared. "stock" is open_clip's `encode_image`
on the frames apart, "plain" our encoder without a temporal module. Below 1 a way is faster than stock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from vactk.models.backbone import BackboneConfig, load_backbone
from vactk.models.temporal.adapters import NoTemporal
from vactk.models.temporal.frame_attention import NeighbourAttentionConfig
from vactk.models.video_clip import VideoCLIP
from vactk.models.vision_tower import vision_tower


def measure(ways: dict[str, Callable[[], torch.Tensor]], repeats: int, *, backward: bool) -> dict[str, float]:
    """Median seconds of each way, after a first run that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, encode in ways.items():
            with torch.set_grad_enabled(backward):
                start = time.perf_counter()
                out = encode()
                if backward:
                    out.square().sum().backward()
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--window", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(0)
    clip = load_backbone(BackboneConfig(name=options.backbone, pretrained="none")).clip.eval()
    tower = vision_tower(clip)
    shape = (tower.width, tower.grid, len(tower.blocks))
    plain = VideoCLIP(clip, NoTemporal().build(*shape)).eval()
    ends = {
        name: VideoCLIP(clip, NeighbourAttentionConfig(window=options.window, ends=name).build(*shape)).eval()
        for name in ("zeros", "masked")
    }
    video = torch.randn(options.batch, options.frames, 3, *tower.image_size)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "stock": lambda: clip.encode_image(video.flatten(0, 1)),
        "plain": lambda: plain.encode_video(video),
        "neighbours, zeros": lambda: ends["zeros"].encode_video(video),
        "neighbours, masked": lambda: ends["masked"].encode_video(video),
    }
    print(
        f"{options.backbone}, {options.batch} x {options.frames} frames, {torch.get_num_threads()} threads, "
        f"medians of {options.repeats}"
    )
    print(f"{'':20} {'forward, s':>12} {'ratio':>7} {'+ backward, s':>14} {'ratio':>7}")
    forward = measure(ways, options.repeats, backward=False)
    both = measure(ways, options.repeats, backward=True)
    for name in ways:
        one, two = forward[name], both[name]
        print(f"{name:20} {one:12.2f} {one / forward['stock']:7.3f} {two:14.2f} {two / both['stock']:7.3f}")


if __name__ == "__main__":
    main()
