"""`vactk interpolate` on two large checkpoints: time and peak memory against `cp` of one of them.

    python -m tests.benchmarks.interpolate [--backbone ViT-L-14] [--folder DIR] [--repeats 3]

The checkpoints are random, of a whole CLIP with neighbour-frame attention. Peak memory is what the kernel
counts as resident, mapped pages of the inputs included; "bare" is a process that imports the same and mixes
two files of a few bytes. Runs are interleaved, medians compared; `cp` is followed by fsync of its copy, as
vactk's own writing is.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path


def make(folder: Path, backbone: str) -> None:
    """Two whole checkpoints, a.safetensors and b.safetensors, and two of a few bytes."""
    import torch
    from safetensors.torch import save_file

    from vactk.checkpoints.checkpoint import checkpoint_metadata, shapes_of
    from vactk.models.backbone import BackboneConfig
    from vactk.models.temporal.frame_attention import NeighbourAttentionConfig
    from vactk.models.video_model import Heads, ModelConfig
    from vactk.weights.safetensors_file import fingerprint, save_tensors

    config = ModelConfig(
        backbone=BackboneConfig(name=backbone, pretrained="none", quick_gelu=True),
        temporal=NeighbourAttentionConfig(),
    )
    metadata = checkpoint_metadata(config, Heads(), ("vision", "text"), fingerprint({}))
    for seed, stem in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        tensors = {n: torch.randn(s, generator=generator) for n, s in shapes_of(config, Heads()).items()}
        save_tensors(folder / f"{stem}.safetensors", tensors, metadata)
        save_file({"x": torch.ones(1) * seed}, folder / f"small-{stem}.safetensors")


def run(command: list[str], output: Path) -> tuple[float, float]:
    """Seconds, and the peak of resident memory in MiB."""
    output.unlink(missing_ok=True)
    start = time.perf_counter()
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawnp(command[0], command, dict(os.environ), file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, command
    with output.open("rb") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", default="ViT-L-14")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        # in a process of its own: what this one holds would count as its children's peak
        maker = multiprocessing.get_context("spawn").Process(target=make, args=(folder, options.backbone))
        maker.start()
        maker.join()
        one, two, output = (folder / f"{stem}.safetensors" for stem in ("a", "b", "out"))
        size = one.stat().st_size / 2**20
        vactk = [sys.executable, "-m", "vactk", "interpolate"]
        mix = ["--alpha", "0.5", "--output", str(output), "--json"]
        commands = {
            "cp": ["cp", str(one), str(output)],
            "bare": [*vactk, str(folder / "small-a.safetensors"), str(folder / "small-b.safetensors"), *mix],
            "interpolate": [*vactk, str(one), str(two), *mix],
        }
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in commands}
        for _ in range(options.repeats + 1):
            for way, command in commands.items():
                found[way].append(run(command, output))
    print(f"{options.backbone}: two files of {size:.0f} MiB, medians of {options.repeats}")
    print(f"{'':12} {'seconds':>8} {'ratio to cp':>12} {'peak MiB':>9} {'ratio to a file':>16}")
    median = {
        way: tuple(statistics.median(column) for column in zip(*runs[1:], strict=True))
        for way, runs in found.items()
    }
    for way, (seconds, peak) in median.items():
        print(f"{way:12} {seconds:8.2f} {seconds / median['cp'][0]:12.2f} {peak:9.0f} {peak / size:16.2f}")
    extra = median["interpolate"][1] - median["bare"][1]
    print(f"peak memory above the bare process: {extra:.0f} MiB, {extra / size:.2f} of a file")


if __name__ == "__main__":
    main()
