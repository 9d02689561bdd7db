"""A local page to search an index with: what it shows comes from here, and only the index's videos are served."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import re
import signal
import socket
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from vactk.data.isolated_read import IsolatedReader, LostError
from vactk.data.windows import read_whole
from vactk.data.worker_pool import usable_processors
from vactk.errors import VactkError
from vactk.retrieval.hits import Hit, Searchable, SearchFilter
from vactk.retrieval.index.file_identity import FileIdentity, StaleError, open_same
from vactk.retrieval.previews import make_clip, make_still

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    from vactk.retrieval.media_response import MEDIA_HEADERS, send_file
    from vactk.retrieval.uploads import RefusedError, TooLargeError, UnreadableUploadError, Uploads
except ImportError as error:
    raise VactkError("--serve needs a package: pip install 'vactk[serve]'") from error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")
STATIC = Path(__file__).parent / "static"
LOOPBACK = ("127.0.0.1", "localhost")
MOST_HITS = 200
SAMPLE_QUERY, SAMPLES = "a video", 8  # what is shown before the first search
CLIPS_KEPT = 50
CACHE_S = 600
STILL_S = 20.0  # that making a still may take
CLIP_S = 120.0
STILLS_AT_ONCE = max(2, usable_processors())  # one file that hangs leaves another
CLIPS_AT_ONCE = 1  # encoding takes all processors
FILES_AT_ONCE = 8
FAREWELL_S = 0.3  # for answers under way when the server is to end
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",  # other sites cannot show what is here
}


def serve(
    searchable: Searchable,
    *,
    host: str = LOOPBACK[0],
    port: int = 8000,
    title: str = "vactk",
    ready: Callable[[str], None],
) -> None:
    """Serve the page until Ctrl-C; `ready` gets its address. Raises VactkError where the port cannot be had."""
    hosts = LOOPBACK if host in LOOPBACK else ("*",)
    with (
        _listen(host, port) as listening,
        tempfile.TemporaryDirectory(prefix="vactk-page-") as clips,
        IsolatedReader(preload=[make_still.__module__, read_whole.__module__]) as reader,
    ):
        app = make_app(searchable, reader, Path(clips), title=title, hosts=hosts)
        server = _Server(uvicorn.Config(app, log_level="warning", access_log=False), reader)
        address, number = listening.getsockname()[:2]
        with _ended_by_signals():
            ready(f"http://{address}:{number}/")
            server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """A server that ends at once when it is to end, whatever is being read or sent."""

    def __init__(self, config: uvicorn.Config, reader: IsolatedReader) -> None:
        super().__init__(config)
        self._reader = reader

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._reader.close)  # its callers are answered
        if self.server_state.tasks:
            await asyncio.sleep(FAREWELL_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # of a browser that takes no more of a video, too
        await super().shutdown(sockets)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """uvicorn ends by SIGINT and SIGTERM, and then raises them again: there is still to be tidied up."""
    here = threading.current_thread() is threading.main_thread()
    former = signal.signal(signal.SIGTERM, signal.default_int_handler) if here else None
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        if here:
            signal.signal(signal.SIGTERM, former)
            gc.freeze()  # the program ends: looking through all of it for garbage would take a second


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise VactkError(
            f"cannot serve at {host}, port {port}: {error.strerror or error}; choose another --port, or "
            "--port 0 for any that is free"
        ) from error
    return listening


def make_app(
    searchable: Searchable,
    reader: IsolatedReader,
    clips: Path,
    *,
    title: str = "vactk",
    hosts: tuple[str, ...] = LOOPBACK,
) -> ASGIApp:
    """The page as an ASGI app. `clips`: an empty folder for clips that are made for browsers."""
    page = Page(searchable, reader, clips, title)
    routes = [
        Route("/", page.index),
        Route("/api/about", page.about),
        Route("/api/search", page.search),
        Route("/api/upload", page.upload, methods=["POST"]),
        Route("/video/{key}", page.video),
        Route("/clip/{key}.mp4", page.clip),
        Route("/frame/{key}.jpg", page.frame),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    # a name that some other site points here would let it read the answers
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))]
    return Guarded(
        Starlette(
            routes=routes,
            middleware=middleware,
            exception_handlers={VactkError: _refuse},
            lifespan=page.lifespan,
        )
    )


class Guarded:
    """Adds to every answer what a browser must know about it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


class Page:
    """The answers of the routes. Searches take turns: a model is not made for several at once."""

    def __init__(self, searchable: Searchable, reader: IsolatedReader, clips: Path, title: str) -> None:
        self.searchable = searchable
        self.title = title
        self._turn = threading.Lock()
        self._clips = clips
        self._made: OrderedDict[Path, None] = OrderedDict()  # the clips that are there, the latest last
        self._reader = reader
        self._uploads = Uploads(searchable, reader, clips)
        self._files = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="vactk-file")
        self._to_show = ThreadPoolExecutor(STILLS_AT_ONCE, thread_name_prefix="vactk-still")
        self._to_cut = ThreadPoolExecutor(CLIPS_AT_ONCE, thread_name_prefix="vactk-clip")
        self._one_by_one: WeakValueDictionary[object, asyncio.Lock] = WeakValueDictionary()
        self._lost: dict[tuple[Path, FileIdentity], LostError] = {}  # files on which a process was lost

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Ends with the server what it has started."""
        yield
        for threads in (self._files, self._to_show, self._to_cut):
            threads.shutdown(wait=False, cancel_futures=True)

    async def index(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def about(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._about))

    async def search(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._search, dict(request.query_params)))

    async def upload(self, request: Request) -> Response:
        """Read a video to search with; its name among the latest ones is answered."""
        views = await self._uploads.read(request)
        return JSONResponse({"file": await run_in_threadpool(self._embed, views)})

    async def video(self, request: Request) -> Response:
        hit = await self._entry(request)
        file = await self._threaded(open_same, hit.video, hit.known_file)
        return send_file(file, hit.video.name, request, self._files)

    async def clip(self, request: Request) -> Response:
        """A clip for browsers that cannot play the file itself. The latest are kept."""
        hit = await self._entry(request)
        (await self._threaded(open_same, hit.video, hit.known_file)).close()
        path = self._clips / f"{hit.key}-{hit.known_file.digest}.mp4"
        async with self._alone(path):
            if path not in self._made:
                await self._read(self._to_cut, CLIP_S, hit, make_clip, path)
                self._made[path] = None
            self._made.move_to_end(path)
            file = io.FileIO(path)  # closed when it has been sent
            while len(self._made) > CLIPS_KEPT:
                self._made.popitem(last=False)[0].unlink(missing_ok=True)
        return send_file(file, path.name, request, self._files)

    async def frame(self, request: Request) -> Response:
        hit = await self._entry(request)
        at_s = _number(request.query_params.get("at", (hit.start_s + hit.end_s) / 2), "at")
        at_s = min(max(hit.start_s, at_s), hit.end_s)
        picture = await self._read(self._to_show, STILL_S, hit, make_still, at_s)
        headers = {**MEDIA_HEADERS, "Cache-Control": f"private, max-age={CACHE_S}"}
        return Response(picture, media_type="image/jpeg", headers=headers)

    async def _read(
        self, threads: Executor, timeout_s: float, hit: Hit, make: Callable[..., T], *values: object
    ) -> T:
        """Make one thing of each file at once, and none any more once a process was lost on it."""
        file = hit.video, hit.known_file
        work = partial(self._reader.call, hit.video, make, hit, *values, timeout_s=timeout_s)
        async with self._alone((make, file)):
            if file in self._lost:
                raise self._lost[file]
            try:
                return await asyncio.get_running_loop().run_in_executor(threads, work)
            except LostError as error:
                self._lost[file] = error
                raise
            except StaleError:
                raise
            except VactkError as error:
                raise _UnreadableError(str(error)) from error

    def _alone(self, what: object) -> asyncio.Lock:
        return self._one_by_one.setdefault(what, asyncio.Lock())

    async def _threaded(self, function: Callable[..., T], *values: object) -> T:
        """Call what may wait for a disk in a thread that searches do not need."""
        return await asyncio.get_running_loop().run_in_executor(self._files, function, *values)

    def _about(self) -> dict[str, Any]:
        with self._turn:
            found = self.searchable
            (samples,) = found.by_text([SAMPLE_QUERY], SearchFilter(top=SAMPLES, per_video=1))
            return {
                "title": self.title,
                "labels": found.labels(),
                "videos": found.num_videos,
                "windows": found.num_entries,
                "model": "/".join(Path(found.model_name).parts[-2:]),
                "samples": [_shown(hit) for hit in samples],
            }

    def _embed(self, views: NDArray[np.float32]) -> str:
        with self._turn:
            return self._uploads.keep(self.searchable.embed(views))

    def _search(self, asked: dict[str, str]) -> dict[str, Any]:
        wanted = SearchFilter(
            top=min(MOST_HITS, int(_number(asked.get("top") or 24, "top"))),
            label=asked.get("label", ""),
            path=asked.get("path", "")[:1000],
            min_score=_number(asked["min"], "min") if asked.get("min") else None,
            per_video=1 if asked.get("one") else 0,
        )
        query, like, file = (asked.get(name, "") for name in ("q", "like", "file"))
        with self._turn:
            started_s = time.perf_counter()
            if like:
                key = _key(like)
                shown = None if key is None else self.searchable.entry(key)
                if shown is None:
                    raise VactkError("that video is no longer in the index")
                hits = self.searchable.by_video(shown.video, wanted)
            elif file:
                hits = self.searchable.by_vector(self._uploads.vector(file), wanted)
            else:
                (hits,) = self.searchable.by_text([query], wanted)
            latency_ms = 1000 * (time.perf_counter() - started_s)
        return {
            "query": query,
            "like": like or file,
            "hits": [_shown(hit) for hit in hits],
            "latency_ms": latency_ms,
        }

    async def _entry(self, request: Request) -> Hit:
        return await run_in_threadpool(self._look_up, request.path_params["key"])

    def _look_up(self, text: str) -> Hit:
        key = _key(text)
        with self._turn:
            hit = None if key is None else self.searchable.entry(key)
        if hit is None:
            raise _NotFoundError(f"the index has no entry {'of that name' if key is None else key}")
        return hit


class _NotFoundError(VactkError):
    """An address that stands for nothing."""


class _UnreadableError(VactkError):
    """A video of which nothing can be shown."""


def _shown(hit: Hit) -> dict[str, Any]:
    return {**hit.to_json(), "key": str(hit.key), "name": hit.video.name}


def _key(text: str) -> int | None:
    """A hit's key as it is in addresses; None for what is none."""
    key = int(text) if re.fullmatch(r"[0-9]{1,19}", text) else 2**63
    return key if key < 2**63 else None


def _number(text: Any, name: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise VactkError(f"'{name}' must be a number, got '{str(text)[:40]}'") from error
    if not 0 <= value < 2**63:
        raise VactkError(f"'{name}' must be a number from 0 on, got '{str(text)[:40]}'")
    return value


STATUS: dict[type[Exception], int] = {
    _NotFoundError: 404,
    StaleError: 410,
    _UnreadableError: 422,
    LostError: 422,
    UnreadableUploadError: 422,
    RefusedError: 403,
    TooLargeError: 413,
}


async def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, STATUS.get(type(error), 400))
