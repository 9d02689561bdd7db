"""Videos that a browser sends to search with: bounded, read in a process of their own, and removed at once."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect

from vactk.data.isolated_read import IsolatedReader
from vactk.errors import VactkError
from vactk.retrieval.hits import Searchable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from starlette.requests import Request
    from torch import Tensor

LARGEST_BYTES = 500 * 2**20
RECEIVE_S = 300.0  # that receiving a file may take
READ_S = 60.0
VECTORS_KEPT = 100
FILE_TYPE = "application/octet-stream"  # which other sites' pages cannot send without asking first


class RefusedError(VactkError):
    """A request that another site's page may have made."""


class TooLargeError(VactkError):
    """A file of more than `LARGEST_BYTES`."""

    def __init__(self) -> None:
        super().__init__(f"the file is larger than {LARGEST_BYTES >> 20} MB: cut out the part that matters")


class Uploads:
    """The vectors of the latest files; of the files nothing is kept."""

    def __init__(self, searchable: Searchable, reader: IsolatedReader, folder: Path) -> None:
        self._searchable, self._reader, self._folder = searchable, reader, folder
        self._one_at_a_time = asyncio.Lock()
        self._vectors: OrderedDict[str, Tensor] = OrderedDict()

    async def read(self, request: Request) -> NDArray:
        """Return the views of the video in a request, (V, T, 3, H, W). Raises VactkError where it is none."""
        _check_sender(request)
        async with self._one_at_a_time:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix="upload-") as file:
                try:
                    await asyncio.wait_for(_receive(request, file), RECEIVE_S)
                except (asyncio.TimeoutError, ClientDisconnect, OSError) as error:
                    raise VactkError("the file did not arrive whole") from error
                return await asyncio.get_running_loop().run_in_executor(None, self._views, Path(file.name))

    def keep(self, vector: Tensor) -> str:
        """Keep what was embedded, for as long as it is among the latest; return its name."""
        name = secrets.token_hex(8)
        self._vectors[name] = vector
        while len(self._vectors) > VECTORS_KEPT:
            self._vectors.popitem(last=False)
        return name

    def vector(self, name: str) -> Tensor:
        """Return what `keep` has kept. Raises VactkError where that was long ago."""
        if name not in self._vectors:
            raise VactkError("that file is no longer known here: choose it again")
        return self._vectors[name]

    def _views(self, path: Path) -> NDArray:
        try:
            return self._reader.call(path, self._searchable.read_video, path, timeout_s=READ_S)
        except VactkError as error:
            message = str(error).replace(f"video '{path}'", "the file").replace(str(path), "the file")
            raise UnreadableUploadError(message) from error


class UnreadableUploadError(VactkError):
    """A file that is not a video."""


def _check_sender(request: Request) -> None:
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise RefusedError(f"files come from this page alone, not from '{origin[:100]}'")
    if request.headers.get("content-type") != FILE_TYPE:
        raise RefusedError(f"a file is sent as {FILE_TYPE}")
    stated = request.headers.get("content-length", "0")
    if stated.isdecimal() and int(stated[:20]) > LARGEST_BYTES:
        raise TooLargeError


async def _receive(request: Request, file: tempfile._TemporaryFileWrapper[bytes]) -> None:
    """Write a request's body to a file, as far as it may be."""
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > LARGEST_BYTES:
            raise TooLargeError
        file.write(chunk)
    if not count:
        raise UnreadableUploadError("the file is empty")
    file.flush()
