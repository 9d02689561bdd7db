"""The page's server, and the page in a browser."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
from tests.retrieval.test_index import Made

from tests.video.conftest import write_video
from vactk.errors import VactkError
from vactk.retrieval.hits import Hit
from vactk.retrieval.index.update import EmbeddingConfig

pytest.importorskip("starlette", reason="needs pip install 'vactk[serve]'")
from vactk.retrieval import server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


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
        Hit(rank=0, score=0.0, key=2**55 + n, video=videos / name, start_s=2.0, end_s=4.0, label=label)
        for n, (name, label) in enumerate(zip(names, labels, strict=True))
    )


KEY = 2**55  # beyond what a browser's numbers hold


@pytest.fixture
def client(fake, tmp_path):
    testclient = pytest.importorskip("starlette.testclient")
    app = server.make_app(fake, tmp_path, title="holidays")
    return testclient.TestClient(app, base_url="http://127.0.0.1")


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
    alike = client.get("/api/search", params={"like": str(KEY)}).json()
    assert "dog.mp4" not in [hit["name"] for hit in alike["hits"]]
    client.get("/api/search", params={"q": "x", "top": 10**9})
    assert fake.asked[-1][1].top == server.MOST_HITS


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("/api/search?q=", 400, "the query is empty"),
        ("/api/search?q=x&top=many", 400, "'top' must be a number"),
        ("/api/search?q=x&top=nan", 400, "'top' must be a number from 0 on"),
        ("/api/search?q=x&top=0.5", 400, "--top must be at least 1"),
        ("/api/search?like=7", 400, "no longer in the index"),
        ("/api/search?like=1e400", 400, "'like' must be a number from 0 on"),
        ("/video/7", 404, "no entry 7"),
        (f"/video/{10**40}", 404, "no entry"),
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


def test_old_clips_make_room(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "CLIPS_KEPT", 1)
    clips = server._Clips(tmp_path)
    paths = [clips.of(fake.hits[KEY + n]) for n in (0, 1)]
    assert [path.exists() for path in paths] == [False, True]


def test_a_file_that_vanished_since_is_told(client, fake, tmp_path):
    gone = Hit(rank=0, score=0.0, key=5, video=tmp_path / "gone.mp4", start_s=0.0, end_s=1.0)
    fake.hits[5] = gone
    for address in ("/video/5", "/clip/5.mp4", "/frame/5.jpg"):
        answer = client.get(address)
        assert (answer.status_code, answer.json()["error"]) == (410, "'gone.mp4' is no longer on disk")
    (tmp_path / "gone.mp4").write_bytes(b"not a video any more")
    assert client.get("/frame/5.jpg").status_code == 422


def test_a_port_in_use_is_named(fake):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(VactkError, match=f"port {port}.*--port"):
            server.serve(fake, port=port, ready=lambda url: None)


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

    server.uvicorn.Server = Kept
    try:
        thread = threading.Thread(
            target=server.serve, args=(fake,), kwargs={"port": 0, "ready": on_ready}, daemon=True
        )
        thread.start()
        assert ready.wait(20)
        yield found[0]
        servers[0].should_exit = True
        thread.join(10)
    finally:
        server.uvicorn.Server = original


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
    gone = Hit(rank=0, score=0.0, key=5, video=tmp_path / "gone.mp4", start_s=0.0, end_s=1.0, label="old")
    fake.hits[5] = gone
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
    assert isinstance(made.reading, EmbeddingConfig)
    made.add()
    client = testclient.TestClient(server.make_app(made.searcher(), tmp_path), base_url="http://127.0.0.1")
    answer = client.get("/api/search", params={"q": "a red star", "top": 3}).json()
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
    first = answer["hits"][0]
    assert client.get(f"/video/{first['key']}").content == Path(first["video"]).read_bytes()
    assert client.get("/api/about").json()["videos"] == 6
