"""Files under videos' names that are broken in every way that is met."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.data.trees import half_video
from tests.video.conftest import write_audio, write_video


def _cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def no_index(path: Path) -> None:
    write_video(path)
    _cut(path, 0.7)


def noise(path: Path) -> None:
    path.write_bytes(bytes((n * 37 + n // 7) % 256 for n in range(20_000)))


def zeroed(path: Path) -> None:
    size = write_video(path).stat().st_size
    path.write_bytes(bytes(size))


# Nothing of these can be read.
UNREADABLE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "noise": noise,
    "zeroed": zeroed,
    "no_index": no_index,
    "web_page": lambda path: path.write_text("<!DOCTYPE html><p>404</p>"),
    "lfs_pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "playlist": lambda path: path.write_text("#EXTM3U\nhttp://example.com/a.ts\n"),
    "only_sound": write_audio,
}
# The first part of these can be read.
PARTIAL: dict[str, Callable[[Path], object]] = {"cut_short": half_video}
