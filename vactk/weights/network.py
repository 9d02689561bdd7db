"""Find out in seconds whether a server of weights can be reached, before its downloader tries for a minute."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants as hub

CONNECT_S = 3.0  # time for a connection, unless HF_HUB_ETAG_TIMEOUT says another


@contextlib.contextmanager
def fast_failure(url: str) -> Iterator[str]:
    """While the server of `url`, by default the hub, cannot be reached, let downloads fail at once; yield why.

    Files in the cache are found without it. The reason is empty where the server can be reached: downloads then
    have all the time and retries that their downloader gives them.
    """
    if hub.HF_HUB_OFFLINE:
        yield "HF_HUB_OFFLINE is set"
        return
    reason = unreachable(url or hub.ENDPOINT, float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or CONNECT_S))
    if not reason:
        yield ""
        return
    former = hub.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    hub.HF_HUB_OFFLINE = True
    socket.setdefaulttimeout(CONNECT_S)
    try:
        yield reason
    finally:
        hub.HF_HUB_OFFLINE = former[0]
        socket.setdefaulttimeout(former[1])


def unreachable(url: str, timeout_s: float) -> str:
    """Return why a server, or the proxy before it, takes no connection within `timeout_s`; empty if it does."""
    server = urlsplit(url)
    host = server.hostname or ""
    proxy = "" if proxy_bypass(host) else getproxies().get(server.scheme, "")
    target = urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else server
    port = target.port or (80 if (target.scheme or "http") == "http" else 443)
    found = [f"{host} does not answer within {timeout_s:g} s; HF_HUB_ETAG_TIMEOUT=30 waits longer"]

    def connect() -> None:
        try:
            socket.create_connection((target.hostname or "", port), timeout=timeout_s).close()
            found[0] = ""
        except TimeoutError:
            pass
        except OSError as error:
            found[0] = f"{host} cannot be reached: {error.strerror or error}"

    thread = threading.Thread(target=connect, daemon=True)  # looking up a name has no time limit of its own
    thread.start()
    thread.join(timeout_s)
    return found[0]
