"""A local page to search an index with: what it shows comes from here, and only the index's videos are served."""

from __future__ import annotations

import contextlib
import io
import socket
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vactk.errors import VactkError
from vactk.retrieval.hits import Hit, Searchable, SearchFilter
from vactk.retrieval.results.clips import cut
from vactk.retrieval.results.thumbnails import stills
from vactk.video.container import VideoError

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles
except ImportError as error:
    raise VactkError("--serve needs a package: pip install 'vactk[serve]'") from error

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATIC = Path(__file__).parent / "static"
LOOPBACK = ("127.0.0.1", "localhost")
MOST_HITS = 200
LONGEST_CLIP_S = 60.0
CLIP_SIDE = 640  # pixels
CLIPS_KEPT = 50
STILL_HEIGHT = 270  # pixels
CACHE_S = 600
GONE = 410
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
    listening = _listen(host, port)
    with listening, tempfile.TemporaryDirectory(prefix="vactk-page-") as clips:
        app = make_app(searchable, Path(clips), title=title, hosts=LOOPBACK if host in LOOPBACK else ("*",))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        address, number = listening.getsockname()[:2]
        ready(f"http://{address}:{number}/")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended by it, and tells us
            server.run(sockets=[listening])


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
    searchable: Searchable, clips: Path, *, title: str = "vactk", hosts: tuple[str, ...] = LOOPBACK
) -> Starlette:
    """The page as an ASGI app. `clips`: an empty folder for clips that are made for browsers."""
    page = Page(searchable, clips, title)
    routes = [
        Route("/", page.index),
        Route("/api/about", page.about),
        Route("/api/search", page.search),
        Route("/video/{key:int}", page.video),
        Route("/clip/{key:int}.mp4", page.clip),
        Route("/frame/{key:int}.jpg", page.frame),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    middleware = [
        Middleware(cast(Any, Guarded)),
        # a name that some other site points here would let it read the answers
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)),
    ]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={VactkError: _refuse})


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
    """What the routes answer. Searches take turns: a model is not made for several at once."""

    def __init__(self, searchable: Searchable, clips: Path, title: str) -> None:
        self.searchable = searchable
        self.title = title
        self._turn = threading.Lock()
        self._clips = _Clips(clips)

    async def index(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def about(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._about))

    async def search(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._search, dict(request.query_params)))

    async def video(self, request: Request) -> Response:
        hit = await self._entry(request)
        return FileResponse(hit.video) if hit.video.is_file() else _gone(hit)

    async def clip(self, request: Request) -> Response:
        hit = await self._entry(request)
        if not hit.video.is_file():
            return _gone(hit)
        return FileResponse(await run_in_threadpool(self._clips.of, hit), media_type="video/mp4")

    async def frame(self, request: Request) -> Response:
        hit = await self._entry(request)
        if not hit.video.is_file():
            return _gone(hit)
        at_s = _number(request.query_params.get("at", (hit.start_s + hit.end_s) / 2), "at")
        picture = await run_in_threadpool(_still, hit.video, min(max(hit.start_s, at_s), hit.end_s))
        return Response(
            picture, media_type="image/jpeg", headers={"Cache-Control": f"private, max-age={CACHE_S}"}
        )

    def _about(self) -> dict[str, Any]:
        with self._turn:
            labels, videos = self.searchable.labels(), self.searchable.num_videos
        return {"title": self.title, "labels": labels, "videos": videos}

    def _search(self, asked: dict[str, str]) -> dict[str, Any]:
        wanted = SearchFilter(
            top=min(MOST_HITS, int(_number(asked.get("top") or 24, "top"))),
            label=asked.get("label", ""),
            path=asked.get("path", "")[:1000],
        )
        query, like = asked.get("q", ""), asked.get("like", "")
        with self._turn:
            started_s = time.perf_counter()
            if like:
                shown = self.searchable.entry(int(_number(like, "like")))
                if shown is None:
                    raise VactkError("that video is no longer in the index")
                hits = self.searchable.by_video(shown.video, wanted)
            else:
                (hits,) = self.searchable.by_text([query], wanted)
            latency_ms = 1000 * (time.perf_counter() - started_s)
        shown_hits = [{**hit.to_json(), "key": str(hit.key), "name": hit.video.name} for hit in hits]
        return {"query": query, "like": like, "hits": shown_hits, "latency_ms": latency_ms}

    async def _entry(self, request: Request) -> Hit:
        key = request.path_params["key"]
        hit = await run_in_threadpool(self._look_up, key)
        if hit is None:
            raise _NotFoundError(f"there is no entry {key} in the index")
        return hit

    def _look_up(self, key: int) -> Hit | None:
        with self._turn:
            return self.searchable.entry(key) if key < 2**63 else None


class _NotFoundError(VactkError):
    """An address that stands for nothing."""


class _Clips:
    """Clips for browsers that cannot play a file itself: the latest are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: OrderedDict[int, Path] = OrderedDict()
        self._turn = threading.Lock()  # one at a time: encoding takes all processors

    def of(self, hit: Hit) -> Path:
        with self._turn:
            if hit.key not in self._made:
                path = self._folder / f"{hit.key}.mp4"
                cut(
                    hit.video,
                    hit.start_s,
                    min(hit.end_s, hit.start_s + LONGEST_CLIP_S),
                    path,
                    max_side=CLIP_SIDE,
                )
                self._made[hit.key] = path
            self._made.move_to_end(hit.key)
            while len(self._made) > CLIPS_KEPT:
                self._made.popitem(last=False)[1].unlink(missing_ok=True)
            return self._made[hit.key]


def _still(video: Path, at_s: float) -> bytes:
    (picture,), _ = stills(video, [at_s], STILL_HEIGHT)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _number(text: Any, name: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise VactkError(f"'{name}' must be a number, got '{str(text)[:40]}'") from error
    if not 0 <= value < 2**63:
        raise VactkError(f"'{name}' must be a number from 0 on, got '{str(text)[:40]}'")
    return value


def _gone(hit: Hit) -> Response:
    return JSONResponse({"error": f"'{hit.video.name}' is no longer on disk"}, status_code=GONE)


async def _refuse(request: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, _NotFoundError) else 422 if isinstance(error, VideoError) else 400
    return JSONResponse({"error": str(error)}, status_code=status)
