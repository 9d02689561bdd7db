"""The page serves what was indexed, as video, whatever was put in its place and whatever hangs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.retrieval import polyglots
from tests.retrieval.hanging import hang_in_ffmpeg, hang_in_python, hang_with_the_lock
from tests.retrieval.pages import KEY, all_end, descendants, entry
from tests.video.conftest import write_video
from vactk.retrieval.previews import make_still
from vactk.video.reader import open_video

pytest.importorskip("starlette", reason="needs pip install 'vactk[serve]'")
from vactk.retrieval import server


def test_what_is_no_video_by_its_name_comes_as_a_download(client, fake, tmp_path):
    (tmp_path / "listed").mkdir()
    contents = {
        "a.js": polyglots.as_script(), "b.html": polyglots.as_document(),
        "c.gif": polyglots.as_document(), "d.svg": polyglots.as_document(),
    }  # fmt: skip
    for key, (name, content) in enumerate(contents.items(), 5):
        path = tmp_path / "listed" / name
        path.write_bytes(content)
        with open_video(path) as video:  # FFmpeg takes it, so it is indexed
            assert video.num_frames == 2
        fake.hits[key] = entry(key, path)
    for key in (5, 6, 8):
        answer = client.get(f"/video/{key}")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment")
    assert client.get("/video/7").headers["content-type"] == "image/gif"
    assert client.get(f"/video/{KEY}").headers["content-type"] == "video/mp4"
    for address in (*(f"/video/{key}" for key in range(5, 9)), f"/frame/{KEY}.jpg", f"/clip/{KEY}.mp4"):
        headers = client.get(address).headers
        assert "sandbox" in headers.get_list("content-security-policy")
        assert headers["x-content-type-options"] == "nosniff"


def link_to_secret(video, secret):
    video.unlink()
    video.symlink_to(secret)


def other_content(video, secret):
    video.write_bytes(secret.read_bytes())


def same_size_and_time(video, secret):
    """As far as its size and time show, it is what it was."""
    state = video.stat()
    video.write_bytes(secret.read_bytes().ljust(state.st_size, b"\0"))
    os.utime(video, ns=(state.st_atime_ns, state.st_mtime_ns))


def link_to_a_copy(video, secret):
    """The content is the same today; the link may lead elsewhere tomorrow."""
    shutil.copy2(video, video.with_name("copy"))
    link_to_secret(video, video.with_name("copy"))


def pipe(video, secret):
    video.unlink()
    os.mkfifo(video)


@pytest.mark.parametrize("swap", [link_to_secret, other_content, same_size_and_time, link_to_a_copy, pipe])
def test_only_what_was_indexed_is_served(client, fake, videos, tmp_path, swap):
    video, secret = tmp_path / "in" / "dog.mp4", tmp_path / "secret"
    video.parent.mkdir()
    shutil.copy(videos / "dog.mp4", video)
    secret.write_text("the secret")
    fake.hits[5] = entry(5, video)
    for address in ("/video/5", "/clip/5.mp4", "/frame/5.jpg"):
        assert client.get(address).status_code == 200
    swap(video, secret)
    for address in ("/video/5", "/clip/5.mp4", "/frame/5.jpg"):
        answer = client.get(address)
        assert (answer.status_code, "has changed since" in answer.json()["error"]) == (410, True)


def test_a_link_that_was_indexed_is_served_while_it_leads_to_the_same(client, fake, videos, tmp_path):
    (tmp_path / "in").mkdir()
    link = tmp_path / "in" / "link.mp4"
    link.symlink_to(videos / "dog.mp4")
    fake.hits[5] = entry(5, link)
    for address in ("/video/5", "/frame/5.jpg"):
        assert client.get(address).status_code == 200
    link_to_secret(link, videos / "cat.mp4")
    for address in ("/video/5", "/frame/5.jpg"):
        assert client.get(address).status_code == 410


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.mpg", "mpeg2video"),
        ("a.ts", "libx264"),
        ("a.gif", "gif"),
    ],
)
def test_a_file_is_read_by_its_descriptor_alone(fake, tmp_path, name, codec):
    """Which has no name that would tell FFmpeg what it is; the time is that of the last frame."""
    path = write_video(
        tmp_path / name, codec=codec, size=(64, 64), **({"pix_fmt": "rgb8"} if codec == "gif" else {})
    )
    with open_video(path) as video:
        last_s = float(video.times_s[-1])
    assert make_still(entry(1, path, 0.0, last_s), last_s)[:2] == b"\xff\xd8"


def test_a_file_that_hangs_stops_neither_search_nor_other_files(client, monkeypatch):
    monkeypatch.setattr(server, "make_still", hang_in_python)
    monkeypatch.setattr(server, "STILL_S", 1.5)
    assert client.get(f"/frame/{KEY + 1}.jpg").status_code == 200  # a process is there
    with ThreadPoolExecutor(45) as threads:
        hung = [threads.submit(client.get, f"/frame/{KEY}.jpg?at={n / 10}") for n in range(45)]
        time.sleep(0.2)
        assert client.get("/api/search", params={"q": "cat"}).json()["hits"]
        assert client.get(f"/frame/{KEY + 1}.jpg").status_code == 200
        assert not any(answer.done() for answer in hung)
        started_s = time.monotonic()
        answers = [answer.result() for answer in hung]
        assert time.monotonic() - started_s < 10  # one process was spent on it, not 45 of 1.5 s
    assert {answer.status_code for answer in answers} == {422}
    assert "dog.mp4': reading it took over 1.5 s" in answers[0].json()["error"]


SERVING = """
import sys
from pathlib import Path
from tests.retrieval import hanging
from tests.retrieval.pages import Fake, entry
from vactk.retrieval import server
server.make_still = getattr(hanging, sys.argv[2])
fake = Fake([entry(1, Path(sys.argv[1]))])
server.serve(fake, port=0, ready=lambda url: print(url, flush=True))
print("tidied up", flush=True)
"""


@contextlib.contextmanager
def serving(video, hang, temporary):
    """A server whose processes hang, asked for many stills and for a video that nobody takes; and its children."""
    command = [sys.executable, "-c", SERVING, str(video), hang.__name__]
    root, places = Path(__file__).parents[2], {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        command, cwd=root, env=places, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    children = set()
    try:
        port = int(process.stdout.readline().strip().rsplit(":", 1)[1].strip("/"))
        with contextlib.ExitStack() as connections:
            for address in ("/video/1", *["/frame/1.jpg"] * 45):
                connection = connections.enter_context(socket.create_connection(("127.0.0.1", port)))
                connection.sendall(f"GET {address} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            time.sleep(0.3)
            children |= descendants(process.pid)
            assert len(children) >= 3  # what starts processes, one that hangs, and the keeper of their memory
            yield process, children
    finally:
        for pid in (*children, process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize(
    ("number", "hang"), [(signal.SIGTERM, hang_in_ffmpeg), (signal.SIGINT, hang_with_the_lock)]
)
def test_a_signal_ends_the_server_whatever_hangs(videos, tmp_path, number, hang):
    large = tmp_path / "dog.mp4"
    large.write_bytes((videos / "dog.mp4").read_bytes() + bytes(20_000_000))
    with serving(large, hang, tmp_path) as (process, children):
        process.send_signal(number)
        started_s = time.monotonic()
        assert process.wait(10) == 0
        assert time.monotonic() - started_s < 3
        assert all_end(children, 9)
        assert process.stdout.read() == "tidied up\n"
        assert process.stderr.read() == ""
        assert list(tmp_path.glob("vactk-page-*")) == []
