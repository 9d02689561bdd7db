"""What the page's server answers."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.retrieval.hanging import hang_on_a_path
from tests.retrieval.index.test_update import Made
from tests.retrieval.pages import KEY, entry
from vactk.errors import VactkError
from vactk.retrieval.index.update import EmbeddingConfig

pytest.importorskip("starlette", reason="needs pip install 'vactk[serve]'")
from vactk.retrieval import server, uploads
from vactk.retrieval.uploads import FILE_TYPE


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
    about = client.get("/api/about").json()
    assert len(about.pop("samples")) == 4
    assert about == {
        "title": "holidays",
        "labels": ["birds", "old", "pets"],
        "videos": 4,
        "windows": 8,
        "model": "runs/first",
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
    client.get("/api/search", params={"q": "x", "top": 10**9, "min": "0.25", "one": 1})
    assert fake.asked[-1][1].top == server.MOST_HITS
    assert (fake.asked[-1][1].min_score, fake.asked[-1][1].per_video) == (0.25, 1)


@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("/api/search?q=", 400, "the query is empty"),
        ("/api/search?q=x&top=many", 400, "'top' must be a number"),
        ("/api/search?q=x&top=nan", 400, "'top' must be a number from 0 on"),
        ("/api/search?q=x&top=0.5", 400, "--top must be at least 1"),
        ("/api/search?q=x&min=high", 400, "'min' must be a number"),
        ("/api/search?file=7", 400, "no longer known here"),
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


def send(client, content, **headers):
    return client.post("/api/upload", content=content, headers={"Content-Type": FILE_TYPE, **headers})


def test_a_file_is_searched_with_and_not_kept(client, fake, videos, tmp_path):
    sent = send(client, (videos / "dog.mp4").read_bytes(), Origin="http://127.0.0.1")
    assert sent.status_code == 200
    found = client.get("/api/search", params={"file": sent.json()["file"], "label": "pets"}).json()
    assert [hit["name"] for hit in found["hits"]] == ["dog.mp4", "cat.mp4"]
    assert fake.asked[0][0] == (1, 3, 96, 128)  # what the process that read the file made of it
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b"no video", {}, 422, "cannot read the file"),
        (b"#EXTM3U\n/etc/passwd", {}, 422, "cannot read the file"),
        (b"", {}, 422, "the file is empty"),
        (b"x" * 2000, {}, 413, "larger than"),
        (b"x", {"Origin": "http://evil.example"}, 403, "'http://evil.example'"),
        (b"x", {"Origin": "null"}, 403, "from this page alone"),
        (b"x", {"Content-Type": "text/plain"}, 403, "is sent as"),
        (b"x", {"Host": "evil.example"}, 400, ""),
    ],
)
def test_files_that_are_not_read(client, tmp_path, monkeypatch, content, headers, status, message):
    monkeypatch.setattr(uploads, "LARGEST_BYTES", 1000)
    answer = send(client, content, **headers)
    assert (answer.status_code, message in answer.text) == (status, True)
    assert str(tmp_path) not in answer.text
    chunks = client.post("/api/upload", content=iter([b"x" * 600] * 2), headers={"Content-Type": FILE_TYPE})
    assert chunks.status_code == 413  # though no length was stated
    assert list(tmp_path.iterdir()) == []


def test_a_sent_file_that_hangs_is_given_up(client, fake, monkeypatch, videos):
    monkeypatch.setattr(fake, "read_video", hang_on_a_path, raising=False)
    monkeypatch.setattr(uploads, "READ_S", 1.0)
    answer = send(client, (videos / "dog.mp4").read_bytes())
    assert (answer.status_code, "took over 1 s" in answer.json()["error"]) == (422, True)
    assert client.get("/api/search", params={"q": "cat"}).json()["hits"]


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
    monkeypatch.setattr(server, "CLIPS_KEPT", 1)
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


def test_every_answer_has_the_headers_mistakes_of_ours_too(fake, reader, tmp_path, monkeypatch):
    testclient = pytest.importorskip("starlette.testclient")
    monkeypatch.setattr(fake, "labels", lambda: 1 / 0)
    app = server.make_app(fake, reader, tmp_path)
    client = testclient.TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    for address, status in (("/api/about", 500), ("/nothing", 404), ("/api/search?q=", 400)):
        answer = client.get(address)
        assert answer.status_code == status
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_port_in_use_is_named(fake):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(VactkError, match=f"port {port}.*--port"):
            server.serve(fake, port=port, ready=lambda url: None)


def test_a_real_index_behind_the_page(model, accelerator, folder, reader, tmp_path):
    testclient = pytest.importorskip("starlette.testclient")
    made = Made(model, accelerator, folder, tmp_path / "index")
    assert isinstance(made.reading, EmbeddingConfig)
    made.add()
    client = testclient.TestClient(
        server.make_app(made.searcher(), reader, tmp_path), base_url="http://127.0.0.1"
    )
    answer = client.get("/api/search", params={"q": "a red star", "top": 3}).json()
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
    first = answer["hits"][0]
    assert client.get(f"/video/{first['key']}").content == Path(first["video"]).read_bytes()
    assert client.get("/api/about").json()["videos"] == 6
