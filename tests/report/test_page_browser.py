"""The page in a browser, on a desktop and on a phone."""

from __future__ import annotations

import pytest

from tests.retrieval.test_page_browser import browser  # noqa: F401 - a fixture
from vactk.report.page import write_report


@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_nothing_overflows_and_nothing_is_fetched(make_run, browser, width):  # noqa: F811
    folder = make_run("page", 50, 4, names="a class with quite a long name, number_{}")
    write_report([folder], folder / "report.html")
    tab = browser.new_page(viewport={"width": width, "height": 800})
    requests, problems = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda message: problems.append(message.text))
    address = (folder / "report.html").as_uri()
    tab.goto(address)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert [url for url in requests if not url.startswith("data:")] == [address]
    assert problems == []
    tab.close()
