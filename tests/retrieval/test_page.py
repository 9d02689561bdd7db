"""The page's server, and the page in a browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.retrieval.test_index import Made
from tests.video.conftest import write_video
from vactk.errors import VactkError
from vactk.retrieval.files import FileIdentity, FileState
from vactk.retrieval.hits import Hit
from vactk.retrieval.index import Reading

pytest.importorskip("starlette", reason="needs pip install 'vactk[serve]'")
from vactk.retrieval import page
from vactk.retrieval.showing import Showing

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def entry(key, video, start_s=2.0, end_s=4.0, label=""):
    """What an index has of a file that is indexed now."""
    known = FileIdentity.of(video, FileState.of(video) or FileState(0, 0))
    return Hit(
        rank=0, score=0.0, key=key, video=video, start_s=start_s, end_s=end_s, label=label, known_file=known
    )


class Fake:
    """An index whose hits are all its entries, those with the words of the query in their names first."""

    def __init__(self, entries):
        self.hits = {hit.key: hit for hit in entries}
        self.asked = []

    num_videos = property(lambda self: len(self.hits))

    def labels(self):
        return sorted({hit.label for hit in self.hits.values()})

    def entry(self, key):
        return self.hits.get(key)

    def by_text(self, queries, wanted):
        self.asked.append((queries, wanted))
        if not queries[0].strip():
            raise VactkError("the query is empty")
        kept = [
            hit
            for hit in self.hits.values()
            if wanted.label in ("", hit.label) and wanted.path in str(hit.video)
        ]
        ranked = sorted(kept, key=lambda hit: queries[0] not in hit.video.name)[: wanted.top]
        return [[Hit(**{**vars(hit), "rank": rank, "score": 1 / rank}) for rank, hit in enumerate(ranked, 1)]]

    def by_video(self, video, wanted):
        (hits,) = self.by_text(["like"], wanted)
        return [hit for hit in hits if hit.video != video]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four videos of 8 seconds, one of them in a codec that no browser plays, and a secret beside them."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("dog.mp4", "cat.mp4", "bird <b>.mp4"):
        write_video(folder / name, num_frames=96, size=(96, 128))
    write_video(folder / "old.avi", num_frames=96, size=(96, 128), codec="mpeg4")
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def fake(videos):
    names = ("dog.mp4", "cat.mp4", "bird <b>.mp4", "old.avi")
    labels = ("pets", "pets", "birds", "old")
    return Fake(
        entry(2**55 + n, videos / name, label=label)
        for n, (name, label) in enumerate(zip(names, labels, strict=True))
    )


KEY = 2**55  # beyond what a browser's numbers hold


@pytest.fixture
def client(fake, tmp_path):
    testclient = pytest.importorskip("starlette.testclient")
    app = page.make_app(fake, tmp_path, title="holidays")
    with testclient.TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def test_the_page_and_its_files_come_from_here_alone(client):
    for path, kind in (
        ("/", "text/html"),
        ("/static/app.js", "javascript"),
        ("/static/style.css", "text/css"),
    ):
        answer = client.get(path)
        assert answer.status_code == 200
        assert kind in answer.headers["content-type"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "//" not in answer.text.replace("http://www.w3.org", "").replace("// ", "").replace("/**", "")
    assert client.get("/api/about").json() == {
        "title": "holidays",
        "labels": ["birds", "old", "pets"],
        "videos": 4,
    }


def test_search_answers_hits_by_keys_that_browsers_keep(client, fake):
    answer = client.get("/api/search", params={"q": "cat", "top": 2, "label": "pets", "path": "c"}).json()
    assert [hit["name"] for hit in answer["hits"]] == ["cat.mp4"]
    assert answer["hits"][0]["key"] == str(KEY + 1)
    assert answer["latency_ms"] >= 0
    ((_, wanted),) = fake.asked
    assert (wanted.top, wanted.label, wanted.path) == (2, "pets", "c")
    for number, name in enumerate(("dog.mp4", "cat.mp4")):
        alike = client.get("/api/search", params={"like": str(KEY + number)}).json()
        assert name not in [hit["name"] for hit in alike["hits"]]
    client.get("/api/search", params={"q": "x", "top": 10**9})
    assert fake.asked[-1][1].top == page.MOST_HITS


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("/api/search?q=", 400, "the query is empty"),
        ("/api/search?q=x&top=many", 400, "'top' must be a number"),
        ("/api/search?q=x&top=nan", 400, "'top' must be a number from 0 on"),
        ("/api/search?q=x&top=0.5", 400, "--top must be at least 1"),
        ("/api/search?like=7", 400, "no longer in the index"),
        ("/api/search?like=1e400", 400, "no longer in the index"),
        ("/video/7", 404, "no entry 7"),
        (f"/video/{10**40}", 404, "no entry"),
        ("/video/" + "7" * 5000, 404, "no entry of that name"),
        ("/frame/" + "7" * 5000 + ".jpg", 404, "no entry of that name"),
        (f"/video/{KEY}x", 404, "no entry"),
        ("/video/-1", 404, "no entry"),
        (f"/frame/{KEY}.jpg?at=x", 400, "'at' must be a number"),
    ],
)
def test_what_cannot_be_answered_is_named(client, address, status, message):
    answer = client.get(address)
    assert (answer.status_code, message in answer.json()["error"]) == (status, True)


@pytest.mark.parametrize(
    "address",
    [
        "/video/secret.txt", "/video/../secret.txt", "/video/%2e%2e/secret.txt", "/static/../page.py",
        "/static/%2e%2e/page.py", "/static/..%2fpage.py", "/static/", "/static//etc/passwd", "/video/",
        "/etc/passwd",
    ],
)  # fmt: skip
def test_nothing_but_the_entries_of_the_index_is_served(client, address):
    answer = client.get(address)
    assert answer.status_code == 404
    assert "secret" not in answer.text
    assert "def serve" not in answer.text


def test_only_this_machines_names_and_only_reading(client):
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"Host": "localhost:8000"}).status_code == 200
    for method in ("post", "put", "delete"):
        assert getattr(client, method)("/api/search?q=x").status_code == 405


def test_videos_come_in_ranges_clips_and_stills(client, videos):
    whole = (videos / "dog.mp4").read_bytes()
    part = client.get(f"/video/{KEY}", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert client.get(f"/video/{KEY}").content == whole
    still = client.get(f"/frame/{KEY}.jpg?at=3")
    assert still.headers["content-type"] == "image/jpeg"
    assert still.content[:2] == b"\xff\xd8"
    clip = client.get(f"/clip/{KEY + 3}.mp4")
    assert clip.status_code == 200
    assert clip.content[4:8] == b"ftyp"
    assert client.get(f"/clip/{KEY + 3}.mp4").content == clip.content


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=100-", 206, 100, None),
        ("bytes=-5", 206, -5, None),
        ("bytes=7-99999999999", 206, 7, None),
        ("bytes=0-0", 206, 0, 1),
        ("bytes=-", 200, 0, None),
        ("bytes=1-2,5-6", 200, 0, None),
        ("lines=1-2", 200, 0, None),
        ("bytes=99999999999-", 416, 0, 0),
        ("bytes=9-3", 416, 0, 0),
    ],
)
def test_ranges(client, videos, asked, status, start, end):
    whole = (videos / "dog.mp4").read_bytes()
    answer = client.get(f"/video/{KEY}", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (status, whole[start:end])
    if status == 206:
        first = start % len(whole)
        assert (
            answer.headers["content-range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(whole)}"
        )
    assert int(client.head(f"/video/{KEY}").headers["content-length"]) == len(whole)
    stale = {"Range": "bytes=1-2", "If-Range": '"another"'}
    assert client.get(f"/video/{KEY}", headers=stale).content == whole


def test_old_clips_make_room(client, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "CLIPS_KEPT", 1)
    for number in (0, 1):
        assert client.get(f"/clip/{KEY + number}.mp4").status_code == 200
    assert [path.name.partition("-")[0] for path in tmp_path.iterdir()] == [str(KEY + 1)]


def test_a_file_that_vanished_since_is_told(client, fake, tmp_path):
    fake.hits[5] = entry(5, tmp_path / "gone.mp4")
    for address in ("/video/5", "/clip/5.mp4", "/frame/5.jpg"):
        answer = client.get(address)
        assert (answer.status_code, answer.json()["error"]) == (410, "'gone.mp4' is no longer on disk")
    (tmp_path / "gone.mp4").write_bytes(b"not a video")
    fake.hits[5] = entry(5, tmp_path / "gone.mp4")
    answer = client.get("/frame/5.jpg")
    assert answer.status_code == 422
    assert f"cannot read video '{tmp_path / 'gone.mp4'}'" in answer.json()["error"]


POLYGLOT_JS = b"GIF89a/*\x01\x00\x01\x00*/=1;document.title='taken over';"
POLYGLOT_HTML = b"GIF89a<html><script>document.title='taken over'</script>"


def polyglots(fake, folder):
    """Files that FFmpeg may take for GIF and browsers for a script or a document, all listed as videos."""
    folder.mkdir(exist_ok=True)
    names = {"a.js": POLYGLOT_JS, "b.html": POLYGLOT_HTML, "c.gif": POLYGLOT_HTML, "d.svg": POLYGLOT_HTML}
    for key, (name, content) in enumerate(names.items(), 5):
        (folder / name).write_bytes(content)
        fake.hits[key] = entry(key, folder / name)


def test_what_is_no_video_by_its_name_comes_as_a_download(client, fake, tmp_path):
    polyglots(fake, tmp_path / "listed")
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


def test_every_answer_has_the_headers_mistakes_of_ours_too(fake, tmp_path, monkeypatch):
    testclient = pytest.importorskip("starlette.testclient")
    monkeypatch.setattr(fake, "labels", lambda: 1 / 0)
    app = page.make_app(fake, tmp_path)
    client = testclient.TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    for address, status in (("/api/about", 500), ("/nothing", 404), ("/api/search?q=", 400)):
        answer = client.get(address)
        assert answer.status_code == status
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


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


class Hanging(Showing):
    """A decoder that never ends, on one file."""

    def __getitem__(self, wish):
        while wish.hit.video.name == "dog.mp4":
            time.sleep(0.01)
        return super().__getitem__(wish)


def test_a_file_that_hangs_stops_neither_search_nor_other_files(fake, tmp_path, monkeypatch):
    testclient = pytest.importorskip("starlette.testclient")
    monkeypatch.setattr(page, "Showing", Hanging)
    monkeypatch.setattr(page, "STILL_S", 2.0)
    app = page.make_app(fake, tmp_path)
    with testclient.TestClient(app, base_url="http://127.0.0.1") as client:
        assert client.get(f"/frame/{KEY + 1}.jpg").status_code == 200  # the processes are there
        with ThreadPoolExecutor(45) as threads:
            started_s = time.monotonic()
            hung = [threads.submit(client.get, f"/frame/{KEY}.jpg?at={n / 10}") for n in range(45)]
            time.sleep(0.3)
            assert client.get("/api/search", params={"q": "cat"}).json()["hits"]
            assert client.get(f"/frame/{KEY + 1}.jpg").status_code == 200
            assert time.monotonic() - started_s < 1.8
            answers = [answer.result() for answer in hung]
            assert time.monotonic() - started_s < 6  # one process was spent on it, not 45
    assert {answer.status_code for answer in answers} == {422}
    assert "dog.mp4': reading it took over 2 s" in answers[0].json()["error"]


SERVING = """
import sys
from pathlib import Path
from tests.retrieval import test_page
from tests.retrieval.test_page import Fake, Hanging, entry, page
page.Showing = Hanging
fake = Fake([entry(1, Path(sys.argv[1]))])
page.serve(fake, port=0, ready=lambda url: print(url, flush=True))
print("tidied up", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_whatever_hangs(videos, tmp_path, number):
    command = [sys.executable, "-c", SERVING, str(videos / "dog.mp4")]
    root, places = Path(__file__).parents[2], {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command, cwd=root, env=places, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        url = process.stdout.readline().strip()
        port = int(url.rsplit(":", 1)[1].strip("/"))
        waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(45)]
        for connection in waiting:
            connection.sendall(b"GET /frame/1.jpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deadline_s = time.monotonic() + 20
        while not (workers := descendants(process.pid)):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        time.sleep(1)
        workers = descendants(process.pid)
        process.send_signal(number)
        started_s = time.monotonic()
        assert process.wait(10) == 0
        assert time.monotonic() - started_s < 3
        assert "tidied up" in process.stdout.read()
        assert "Traceback" not in process.stderr.read()
        assert list(tmp_path.glob("vactk-page-*")) == []
        time.sleep(0.3)
        assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
    finally:
        process.kill()
        process.communicate()


def descendants(parent):
    """The processes below one."""
    found, parents = set(), {parent}
    while parents:
        parents = {
            int(stat.parent.name)
            for stat in Path("/proc").glob("[0-9]*/stat")
            if int(read_quietly(stat).rpartition(")")[2].split()[1:2][0] if read_quietly(stat) else 0)
            in parents
        } - found
        found |= parents
    return found


def read_quietly(path):
    try:
        return path.read_text()
    except OSError:
        return ""


def test_a_port_in_use_is_named(fake):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(VactkError, match=f"port {port}.*--port"):
            page.serve(fake, port=port, ready=lambda url: None)


@pytest.fixture
def address(fake):
    """The page, served in a thread of this process."""
    import uvicorn

    found, ready = [], threading.Event()
    servers = []
    original = uvicorn.Server

    class Kept(original):
        def __init__(self, config):
            super().__init__(config)
            servers.append(self)

        def install_signal_handlers(self):
            pass

    def on_ready(url):
        found.append(url)
        ready.set()

    page.uvicorn.Server = Kept
    try:
        thread = threading.Thread(
            target=page.serve, args=(fake,), kwargs={"port": 0, "ready": on_ready}, daemon=True
        )
        thread.start()
        assert ready.wait(20)
        yield found[0]
        servers[0].should_exit = True
        thread.join(10)
    finally:
        page.uvicorn.Server = original


@pytest.fixture
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def until(tab, holds):
    """Wait for a condition. Playwright's own wait evaluates text in the page, which the page forbids."""
    deadline_s = time.monotonic() + 20
    while not tab.evaluate(holds):
        assert time.monotonic() < deadline_s, f"never: {holds}"
        tab.wait_for_timeout(50)


def test_in_a_browser_a_hit_plays_at_its_time_with_the_keyboard_alone(address, browser):
    tab = browser.new_page(viewport={"width": 1200, "height": 800})
    problems, requests = [], []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(address)
    until(tab, "document.activeElement.id === 'q'")
    tab.keyboard.type("cat")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".hit")
    assert tab.locator(".hit .name").all_inner_texts() == ["cat.mp4", "dog.mp4", "bird <b>.mp4", "old.avi"]
    assert "4 hits in" in tab.inner_text("#status")
    assert tab.url.endswith("?q=cat")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    moment = "(() => { const v = document.querySelector('video'); return v ? v.currentTime : -1 })()"
    until(tab, f"{moment} > 2.2")
    assert 2 <= tab.evaluate(moment) <= 4.5
    assert "/video/" in tab.evaluate("document.querySelector('video').src")
    assert not tab.locator(".playing img").is_visible()
    until(tab, "document.querySelector('video').paused")  # at the hit's end
    tab.keyboard.press("Escape")
    assert tab.locator("video").count() == 0
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("m")
    until(tab, "document.getElementById('status').textContent.includes('videos like it')")
    assert "dog.mp4" not in tab.locator(".hit .name").all_inner_texts()
    tab.go_back()
    until(tab, "document.querySelectorAll('.hit').length === 4")
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "q"
    assert problems == []
    assert all(url.startswith(address) for url in requests)


def test_in_a_browser_filters_mistakes_and_what_cannot_be_played(address, browser, fake, tmp_path):
    fake.hits[5] = entry(5, tmp_path / "gone.mp4", label="old")
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    tab.goto(f"{address}?q=old&label=old")
    tab.wait_for_selector(".hit")
    assert tab.locator(".hit .name").all_inner_texts() == ["old.avi", "gone.mp4"]
    tab.wait_for_selector(".hit.gone")
    assert "no longer on disk" in tab.locator(".gone .screen").get_attribute("data-why")
    tab.locator(".hit").first.click(position={"x": 60, "y": 60})
    until(tab, "(document.querySelector('video') || {src: ''}).src.includes('/clip/')")
    until(tab, "document.querySelector('video').readyState >= 2")
    tab.select_option("#label", "birds")
    until(tab, "document.querySelectorAll('.hit').length === 1")
    assert tab.locator(".hit .name").inner_text() == "bird <b>.mp4"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.fill("#q", " ")
    tab.fill("#path", "nothing has this")
    tab.fill("#q", "x")
    tab.keyboard.press("Enter")
    until(tab, "document.getElementById('status').textContent.includes('nothing found')")


def test_a_real_index_behind_the_page(model, accelerator, folder, tmp_path):
    testclient = pytest.importorskip("starlette.testclient")
    made = Made(model, accelerator, folder, tmp_path / "index")
    assert isinstance(made.reading, Reading)
    made.add()
    client = testclient.TestClient(page.make_app(made.searcher(), tmp_path), base_url="http://127.0.0.1")
    answer = client.get("/api/search", params={"q": "a red star", "top": 3}).json()
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
    first = answer["hits"][0]
    assert client.get(f"/video/{first['key']}").content == Path(first["video"]).read_bytes()
    assert client.get("/api/about").json()["videos"] == 6
