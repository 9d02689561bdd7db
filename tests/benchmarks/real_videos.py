"""Every real video of a data folder under every decoder: what it gives against a whole decode by PyAV.

    python -m tests.benchmarks.real_videos [--data DIR] [--frames 16]

"exact": the frames asked for, bit for bit, with decord within two grey levels (it converts colours itself);
"part": exact as far as the video decodes; "refused": the decoder says that it would not be exact; "no": cannot
be read, as expected.json says too.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from pathlib import Path

import torch

from tests.video.conftest import decode_whole
from vactk.video import DECODERS, VideoError, open_video, uniform_segments


def outcome(path: Path, decoder: str, frames: int, expected: dict) -> tuple[str, int | None]:
    """What became of the file, and the number of its frames."""
    try:
        with open_video(path, decoder) as video:
            count = video.num_frames
            chosen = uniform_segments(count, frames)[0].tolist()
            found, warning = video.read(chosen), video.warning
    except VideoError as error:
        if expected["outcome"] == "unreadable":
            return "no", None
        return ("refused", None) if "choose --decoder auto or pyav" in str(error) else ("FAILED", None)
    oracle, total = decode_whole(path, set(chosen))
    limit = 2 if decoder == "decord" else 0
    same = count == total == expected["frames"] and all(
        (frame.int() - torch.from_numpy(oracle[number].copy()).permute(2, 0, 1).int()).abs().max() <= limit
        for frame, number in zip(found, chosen, strict=True)
    )
    if not same:
        return "WRONG", count
    return ("exact" if warning is None else "part"), count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--frames", type=int, default=16)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    videos = json.loads((options.data / "expected.json").read_text())["videos"]
    totals = {decoder: Counter[str]() for decoder in DECODERS}
    print(f"{'expected':>11}{'frames':>8}" + "".join(f"{decoder:>9}" for decoder in DECODERS))
    for video in videos:
        found = {d: outcome(options.data / video["file"], d, options.frames, video) for d in DECODERS}
        count = next((number for _, number in found.values() if number is not None), "-")
        line = f"{video['outcome']:>11}{count:>8}"
        for decoder, (word, _) in found.items():
            totals[decoder][word] += 1
            line += f"{word:>9}"
        print(line, video["file"], flush=True)
    for decoder, counts in totals.items():
        print(f"{decoder}: " + ", ".join(f"{word} {count}" for word, count in counts.most_common()))


if __name__ == "__main__":
    main()
