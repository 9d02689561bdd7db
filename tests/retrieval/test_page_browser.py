"""The page in a browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time

import pytest

from tests.retrieval import polyglots
from tests.retrieval.pages import entry

pytest.importorskip("starlette", reason="needs pip install 'vactk[serve]'")
from vactk.retrieval import server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def address(fake, reader, monkeypatch):
    """The page, served in a thread of this process."""
    servers, found, ready = [], [], threading.Event()

    class Kept(server._Server):
        def __init__(self, *given):
            super().__init__(*given)
            servers.append(self)

    monkeypatch.setattr(server, "_Server", Kept)
    thread = threading.Thread(
        target=server.serve,
        args=(fake,),
        kwargs={"port": 0, "ready": lambda url: found.append(url) or ready.set()},
        daemon=True,
    )
    thread.start()
    assert ready.wait(20)
    yield found[0]
    servers[0].should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
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
    until(tab, "document.getElementById('status').textContent.includes('4 hits in')")
    assert tab.locator(".hit .name").all_inner_texts() == ["cat.mp4", "dog.mp4", "bird <b>.mp4", "old.avi"]
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


def test_in_a_browser_a_video_is_searched_with_and_hits_keep_their_score_while_they_play(
    address, browser, videos
):
    tab = browser.new_page(viewport={"width": 1200, "height": 800})
    problems = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(address)
    until(tab, "document.querySelectorAll('.samples .hit').length === 4")  # what is here, before any search
    assert tab.inner_text("#about") == "vactk: 4 videos, 8 windows, model runs/first"
    assert not tab.locator(".hit .score").first.is_visible()
    tab.set_input_files("#file", videos / "dog.mp4")
    until(tab, "document.getElementById('status').textContent.includes('4 videos like dog.mp4 in')")
    tab.locator(".hit .screen").first.click(position={"x": 60, "y": 60})
    tab.wait_for_selector(".playing video")
    assert tab.locator(".playing .score").is_visible()
    assert tab.locator(".playing .time").is_visible()
    tab.select_option("#label", "birds")
    until(tab, "document.querySelectorAll('.hit').length === 1")
    assert "file=" in tab.url  # filters count for the same video
    assert "label=birds" in tab.url
    tab.set_input_files("#file", videos / "secret.txt")
    until(tab, "document.getElementById('status').classList.contains('bad')")
    assert "secret.txt: cannot read the file" in tab.inner_text("#status")
    tab.fill("#q", "cat")
    tab.check("#one")
    until(tab, "location.search.includes('one=1')")
    assert problems == []


def title_with(tab, site, html):
    """The title of a document of a site's that is called honest, once it has run."""
    tab.route(
        f"{site}evil.html",
        lambda route: route.fulfill(body=f"<title>honest</title>{html}", content_type="text/html"),
    )
    tab.goto(f"{site}evil.html")
    tab.unroute(f"{site}evil.html")
    return tab.title()


def test_in_a_browser_no_listed_file_runs_as_script_or_document(address, browser, fake, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    script, document = polyglots.as_script(), polyglots.as_document()
    for key, (name, content) in enumerate(
        {"a.js": script, "b.html": document, "c.gif": script, "d.svg": document}.items(), 5
    ):
        (tmp_path / name).write_bytes(content)
        fake.hits[key] = entry(key, tmp_path / name)
    tab = browser.new_page()
    for key in range(5, 9):
        with contextlib.suppress(sync_api.Error):  # what is downloaded is no page
            tab.goto(f"{address}video/{key}")
        assert tab.title() != "taken over"
    for site in (address, "http://elsewhere.example/"):  # a document that got in, and another site's
        for key in (5, 7):
            assert title_with(tab, site, f"<script src='{address}video/{key}'></script>") == "honest"
    inside = f"<script>{script.decode('latin-1')}</script>"
    assert title_with(tab, address, inside) == "taken over"  # such a file is a script, if it gets to be one
    tab.close()


def test_in_a_browser_a_video_that_has_changed_says_so(address, browser, fake, videos, tmp_path):
    path = tmp_path / "dog show.mp4"
    shutil.copy2(videos / "dog.mp4", path)
    fake.hits = {5: entry(5, path)}
    state = path.stat()
    path.write_bytes((videos / "cat.mp4").read_bytes()[::-1].ljust(state.st_size)[: state.st_size])
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    tab = browser.new_page()
    tab.goto(f"{address}?q=dog")
    tab.wait_for_selector(".hit.gone")
    shown = "getComputedStyle(document.querySelector('.gone .screen'), '::after').content"
    assert "'dog show.mp4' has changed since it was indexed" in tab.evaluate(shown)
    if picture := os.environ.get("VACTK_SCREENSHOT"):
        tab.screenshot(path=picture)
    tab.close()
