"""Sends an open file to a browser as a video or picture, never as a document or script."""

from __future__ import annotations

import asyncio
import io
import os
import re
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

CHUNK_BYTES = 262_144
UNKNOWN_TYPE = "application/octet-stream"
MEDIA_TYPES = {
    ".3gp": "video/3gpp", ".asf": "video/x-ms-asf", ".avi": "video/x-msvideo", ".divx": "video/x-msvideo",
    ".flv": "video/x-flv", ".gif": "image/gif", ".m2ts": "video/mp2t", ".m4v": "video/mp4",
    ".mkv": "video/x-matroska", ".mov": "video/quicktime", ".mp4": "video/mp4", ".mpeg": "video/mpeg",
    ".mpg": "video/mpeg", ".mts": "video/mp2t", ".ogv": "video/ogg",
    ".ts": "video/mp2t", ".vob": "video/mpeg", ".webm": "video/webm", ".wmv": "video/x-ms-wmv",
}  # fmt: skip
MEDIA_HEADERS = {
    "Content-Security-Policy": "sandbox",  # beside the page's own: opened by itself, it may do nothing
    "Accept-Ranges": "bytes",
}


def send_file(file: io.FileIO, name: str, request: Request, threads: Executor) -> Response:
    """The file, or the range of it that is asked for, as what `name` says that it is; closes the file.

    What does not have the name of a video or a picture comes as a download of no kind.
    """
    found = os.fstat(file.fileno())
    tag = f'"{found.st_size:x}-{found.st_mtime_ns:x}"'
    kind = MEDIA_TYPES.get(Path(name).suffix.lower(), UNKNOWN_TYPE)
    headers = {**MEDIA_HEADERS, "Content-Type": kind, "ETag": tag}
    if kind == UNKNOWN_TYPE:
        headers["Content-Disposition"] = f"attachment; filename*=utf-8''{quote(name, errors='replace')}"
    start, end, status = 0, found.st_size, 200
    asked = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("range", ""), re.ASCII)
    if asked and asked.group() != "bytes=-" and request.headers.get("if-range", tag) == tag:
        start, end, status = *_range(asked[1], asked[2], found.st_size), 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.st_size}"
        if start >= end:
            file.close()
            return Response(status_code=416, headers={"Content-Range": f"bytes */{found.st_size}"})
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        file.close()
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_chunks(file, start, end, threads), status, headers)


def _range(first: str, last: str, size: int) -> tuple[int, int]:
    """[start, end) of a range as it is asked for: 5-9, 5- or, the last five bytes, -5."""
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


async def _chunks(file: io.FileIO, start: int, end: int, threads: Executor) -> AsyncIterator[bytes]:
    """[start, end) of the file, read in threads that searches do not need."""
    loop = asyncio.get_running_loop()
    with file:
        file.seek(start)
        while start < end:
            chunk = await loop.run_in_executor(threads, file.read, min(CHUNK_BYTES, end - start))
            if not chunk:  # it has been cut short since
                return
            start += len(chunk)
            yield chunk
