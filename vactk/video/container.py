"""Opens a video file, or says in one line why it cannot be read."""

from __future__ import annotations

import errno
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from vactk.errors import VactkError

VIDEO_SUFFIXES = frozenset(
    {
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".flv",
        ".gif",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
    }
    | {".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)

# What else is met under a video's name, by its first bytes.
IMPOSTORS = {
    b"version https://git-lfs": "it is a Git LFS pointer, not the file itself: run 'git lfs pull'",
    b"<!doctype html": "it is a web page, not a video",
    b"<html": "it is a web page, not a video",
    b"#extm3u": "it is a playlist, not a video",
}


class VideoError(VactkError):
    """A video that cannot be read: the message is one line, names the file and says why."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"cannot read video '{path}': {' '.join(reason.split())}")


class VideoWarning(UserWarning):
    """A video of which only a part can be read."""


def is_video_name(path: str | Path) -> bool:
    """Whether the name ends like a video's, in any case; says nothing of the content."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def open_container(path: str | Path) -> tuple[InputContainer, VideoStream]:
    """The file and its main video stream, set to decode on the calling thread. Raises VideoError."""
    _check_file(Path(path))
    try:
        container = av.open(
            str(Path(path).absolute()),  # a relative 'a:b.mp4' would be taken for a protocol
            metadata_errors="ignore",  # HMDB51 has titles that are not UTF-8
            container_options={"protocol_whitelist": "file"},  # a file must not make us fetch others
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(path, _why_not_opened(Path(path), error)) from error
    try:
        return container, _main_stream(container, path)
    except BaseException:
        container.close()
        raise


def header_duration_s(path: str | Path) -> float | None:
    """How long the file's header says that it is, without reading on; None where it does not say.

    Raises VideoError. Headers lie: what plays may be shorter or longer.
    """
    container, stream = open_container(path)
    with container:
        if container.duration is not None and container.duration > 0:
            return float(container.duration / av.time_base)
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
    return None


def reason(error: BaseException) -> str:
    """FFmpeg's words for what went wrong, without its numbers and the path."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


def _main_stream(container: InputContainer, path: str | Path) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        has_audio = bool(container.streams.audio)
        raise VideoError(path, "it has no video stream" + (", only audio" if has_audio else ""))
    if stream.codec_context is None:
        raise VideoError(path, "this FFmpeg has no decoder for its codec")
    # Frame threads can hang the process at exit on damaged files, and workers have one core each.
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise VideoError(path, "no such file" if missing else reason(error)) from error
    if path.is_dir():
        raise VideoError(path, "it is a folder")
    if not path.is_file():  # a pipe would keep us waiting
        raise VideoError(path, "it is not a file")
    if size == 0:
        raise VideoError(path, "the file is empty (0 bytes)")


def _why_not_opened(path: Path, error: Exception) -> str:
    if getattr(error, "errno", None) in {errno.EACCES, errno.EPERM}:
        return "no permission to read it"
    with path.open("rb") as file:
        head = file.read(4096)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for first_bytes, meaning in IMPOSTORS.items():
        if start.startswith(first_bytes):
            return meaning
    if head[4:8] == b"ftyp" and not _has_box(path, b"moov"):
        return "the file is cut short: its index (the moov box) is missing"
    return f"it is damaged or not a video ({reason(error)})"


def _has_box(path: Path, name: bytes) -> bool:
    """Whether an MP4 file has this box at its top level."""
    end = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() + 8 <= end:
            start = file.tell()
            length, found = int.from_bytes(file.read(4), "big"), file.read(4)
            if found == name:
                return True
            if length == 1:  # the length follows in eight bytes
                length = int.from_bytes(file.read(8), "big")
            if length < 8:
                return False
            file.seek(start + length)
    return False
