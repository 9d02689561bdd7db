"""Opening video files, with one-line errors. All files that FFmpeg reads are opened here."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from vactk.errors import VactkError
from vactk.video.container_formats import FORMATS, HEAD_BYTES, why_not_video

VIDEO_SUFFIXES = frozenset(
    [
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
        ".mts",
        ".mxf",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)

OPTIONS = {  # a file must not make FFmpeg open others
    "format_whitelist": FORMATS,
    "protocol_whitelist": "file",
    "enable_drefs": "0",  # MOV: data in other files
}


class VideoError(VactkError):
    """A video that cannot be read. The message is one line with the file and the reason."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"cannot read video '{path}': {' '.join(reason.split())}")
        self._arguments = path, reason

    def __reduce__(self) -> tuple[type[VideoError], tuple[str | Path, str]]:
        return type(self), self._arguments  # it comes out of other processes


class VideoWarning(UserWarning):
    """Only a part of a video can be read."""


def is_video_name(path: str | Path) -> bool:
    """Whether a name has a video's suffix, in any case. The content is not read."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def open_container(path: str | Path) -> tuple[InputContainer, VideoStream]:
    """Open a file and its main video stream, set to decode on the calling thread. Raises VideoError."""
    _check_file(Path(path))
    try:
        container = av.open(
            str(Path(path).absolute()),  # a relative 'a:b.mp4' would be read as a protocol
            metadata_errors="ignore",  # HMDB51 has titles that are not UTF-8
            container_options=OPTIONS,
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(path, _why_not_opened(Path(path), error)) from error
    try:
        return container, _main_stream(container, path)
    except BaseException:
        container.close()
        raise


def create_container(path: Path, options: dict[str, str] | None = None) -> OutputContainer:
    """Open an MP4 file for writing."""
    return av.open(str(path), "w", format="mp4", options=options or {})


def header_duration_s(path: str | Path) -> float | None:
    """Return the duration stated in the file's header, which may be wrong; None where there is none.

    Raises VideoError.
    """
    container, stream = open_container(path)
    with container:
        if container.duration is not None and container.duration > 0:
            return float(container.duration / av.time_base)
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
    return None


def reason(error: BaseException) -> str:
    """Return FFmpeg's description of an error, without its number and the path."""
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
    """Raise VideoError for files that are certainly not videos, before FFmpeg opens them."""
    try:
        state = path.stat()
        if stat.S_ISDIR(state.st_mode):
            raise VideoError(path, "it is a folder")
        if not stat.S_ISREG(state.st_mode):  # reading a pipe would block
            raise VideoError(path, "it is not a regular file")
        if state.st_size == 0:
            raise VideoError(path, "the file is empty (0 bytes)")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise VideoError(path, _why_not_read(error)) from error
    why_not = why_not_video(head)
    if why_not is not None:
        raise VideoError(path, why_not)


def _why_not_read(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return "no such file" if isinstance(error, FileNotFoundError) else reason(error)


def _why_not_opened(path: Path, error: Exception) -> str:
    if getattr(error, "errno", None) == errno.EINVAL:
        return "it is damaged, or in an unsupported format (playlists, image sequences, streams)"
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head[4:8] == b"ftyp" and not _has_box(path, b"moov"):
        return "the file is truncated: its index (the moov box) is missing"
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
