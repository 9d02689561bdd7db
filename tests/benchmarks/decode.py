"""Reading eight sparse frames: vactk against plain decord, interleaved, medians in milliseconds.

    python -m tests.benchmarks.decode [--data DIR] [--repeats 5] [--short-side 256] [NAME_PART ...]

decord reads with one thread, `get_batch` of the same eight frames and, as a second figure, all frames in
order. It is timed also where it returns wrong frames; "-" is where it fails. Below 1 vactk is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from tests.video.conftest import write_video
from vactk.video import Timeline, sample_video, uniform_segments

# isort: split
import decord  # after PyAV, whose libvpx fails once decord's is there

DRAWN: dict[str, dict] = {
    "drawn_h264.mp4": {"keyframe_every": 250, "options": {"preset": "medium", "x264-params": "bframes=3"}},
    "drawn_h264_short_gop.mp4": {"keyframe_every": 12},
    "drawn_vp9.webm": {"codec": "libvpx-vp9", "keyframe_every": 128},
    "drawn_mpeg4.avi": {"codec": "mpeg4", "keyframe_every": 12},
    "drawn_mpeg4_b.avi": {"codec": "mpeg4", "keyframe_every": 250, "options": {"bf": "2"}},
}


def middle_frames(timeline: Timeline):
    return uniform_segments(timeline.num_frames, 8)


def with_vactk(path: Path, short_side: int | None) -> None:
    sample_video(path, middle_frames, short_side=short_side)


def with_decord(path: Path, short_side: int | None) -> None:
    reader = decord.VideoReader(str(path), num_threads=1)
    reader.get_batch(uniform_segments(len(reader), 8)[0].tolist()).asnumpy()


def with_decord_in_order(path: Path, short_side: int | None) -> None:
    reader = decord.VideoReader(str(path), num_threads=1)
    for _ in range(len(reader)):
        reader.next().asnumpy()


READERS: dict[str, Callable[[Path, int | None], None]] = {
    "vactk": with_vactk,
    "decord": with_decord,
    "in order": with_decord_in_order,
}


def measure(path: Path, short_side: int | None, repeats: int) -> dict[str, float]:
    """Median milliseconds of each reader that can read the file."""
    taken: dict[str, list[float]] = {name: [] for name in READERS}
    failed = set()
    for _ in range(repeats + 1):
        for name in READERS.keys() - failed:
            start = time.perf_counter()
            try:
                READERS[name](path, short_side)
            except Exception:
                failed.add(name)
            taken[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(times[1:]) for name, times in taken.items() if name not in failed}


def videos(data: Path, drawn: Path, name_parts: list[str]) -> list[Path]:
    paths = [write_video(drawn / name, num_frames=300, size=(240, 320), **how) for name, how in DRAWN.items()]
    if (data / "expected.json").is_file():
        expected = json.loads((data / "expected.json").read_text())["videos"]
        paths += [data / video["file"] for video in expected if video["outcome"] == "reads"]
    return [path for path in paths if not name_parts or any(part in str(path) for part in name_parts)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name_parts", nargs="*")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--short-side", type=int)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    decord.logging.set_level(decord.logging.QUIET)

    ratios: dict[str, list[float]] = {"decord": [], "in order": []}
    print(f"{'vactk':>9}{'decord':>9}{'ratio':>7}{'in order':>10}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as drawn:
        for path in videos(options.data, Path(drawn), options.name_parts):
            medians = measure(path, options.short_side, options.repeats)
            line = f"{medians['vactk']:9.1f}"
            for name, known in ratios.items():
                if name in medians:
                    known.append(medians["vactk"] / medians[name])
                    line += f"{medians[name]:9.1f}{known[-1]:7.2f} "
                else:
                    line += f"{'-':>9}{'-':>7} "
            print(line, path.name, flush=True)
    for name, known in ratios.items():
        print(
            f"vactk / decord {name}: median {statistics.median(known):.2f}, worst {max(known):.2f} of {len(known)}"
        )


if __name__ == "__main__":
    main()
