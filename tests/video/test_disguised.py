"""Texts and pipes under the names of videos: none makes another file be opened, under any decoder."""

import os
import struct
import time
from itertools import product

import pytest
from PIL import Image

import vactk.video.container
from tests.video.conftest import write_video
from vactk.video import VideoError, open_video
from vactk.video.container import header_duration_s, open_container

NAMES = ("clip.mp4", "clip.avi", "clip.mkv", "clip.m3u8", "clip.txt")
LISTS = {
    "ffconcat": ("ffconcat version 1.0\nfile '{}'\n", "it is a playlist"),
    "m3u8": ("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n", "it is a playlist"),
    "m3u8 after blanks": ("\ufeff \n#EXTM3U\n#EXTINF:9,\n{}\n", "it is a playlist"),
    "sdp": ("v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n", "SDP"),
    "dash": ("<?xml version='1.0'?>\n<MPD><BaseURL>{}</BaseURL></MPD>", "it is an XML document"),
    "idx": ("# VobSub index file, v7\nid: en\n{}", "it is text"),
    "utf-16": ("file {}", "it is text"),
}


@pytest.fixture
def opened(monkeypatch):
    """The files that FFmpeg was given."""
    given = []
    honest = vactk.video.container.av.open
    monkeypatch.setattr(
        vactk.video.container.av, "open", lambda path, *a, **k: given.append(path) or honest(path, *a, **k)
    )
    return given


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_is_not_opened_whatever_it_is_called(kind, tmp_path, opened):
    secret = write_video(tmp_path / "secret.mp4", num_frames=2)
    opened.clear()
    (tmp_path / "folder").mkdir()
    text, reason = LISTS[kind]
    for name, target in product(NAMES, ("../secret.mp4", str(secret), f"file://{secret}")):
        path = tmp_path / "folder" / name
        path.write_text(text.format(target), encoding="utf-16" if kind == "utf-16" else "utf-8")
        for read in (open_video, lambda path: open_video(path, "decord"), header_duration_s):
            with pytest.raises(VideoError, match=reason):
                read(path)
    assert opened == []


@pytest.mark.parametrize("kind", ["ffconcat", "m3u8", "sdp", "pictures"])
def test_ffmpeg_itself_has_no_use_for_lists(kind, tmp_path, monkeypatch):
    """Were one not recognised by its first bytes."""
    monkeypatch.setattr(vactk.video.container, "why_not_video", lambda head: None)
    write_video(tmp_path / "secret.mp4", num_frames=2)
    path = tmp_path / ("%03d.png" if kind == "pictures" else "clip.m3u8" if kind == "m3u8" else "clip.mp4")
    if kind == "pictures":
        for name in ("000.png", "001.png", path.name):
            Image.new("RGB", (40, 30)).save(tmp_path / name)
    else:
        path.write_text(LISTS[kind][0].format("secret.mp4"))
    with pytest.raises(VideoError, match="in an unsupported format"):
        open_container(path)


def test_pipes_and_long_and_nested_lists_cost_no_time(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "inner.mp4").write_text("ffconcat version 1.0\nfile 'pipe.mp4'\n")
    (tmp_path / "outer.mp4").write_text("ffconcat version 1.0\nfile 'inner.mp4'\n")
    (tmp_path / "long.mp4").write_text("ffconcat version 1.0\n" + "file 'inner.mp4'\n" * 10**6)
    started_s = time.monotonic()
    for name, reason in (
        ("pipe.mp4", "not a regular file"),
        ("inner.mp4", "playlist"),
        ("outer.mp4", "playlist"),
        ("long.mp4", "playlist"),
    ):
        with pytest.raises(VideoError, match=reason):
            open_video(tmp_path / name)
    with pytest.raises(VideoError, match="not a regular file"):
        open_video("/dev/null")
    assert time.monotonic() - started_s < 2


def with_boxes(data: bytes, replace: dict[bytes, bytes]) -> bytes:
    """An MP4 file with other contents of some of its boxes."""
    made, at = b"", 0
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + length]
        if name in {b"moov", b"trak", b"mdia", b"minf", b"dinf"}:
            body = with_boxes(body, replace)
        body = replace.get(name, body)
        made += struct.pack(">I4s", 8 + len(body), name) + body
        at += length
    return made


def test_a_track_that_lies_in_another_file_is_not_fetched(tmp_path):
    secret = write_video(tmp_path / "secret.mp4")
    name, whole = secret.name.encode(), str(secret).encode()
    alias = bytes(10) + b"\1/".ljust(28, b"\0") + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0")
    alias += bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)  # how many folders up and down
    alias += struct.pack(">HH", 2, len(whole)) + whole + bytes(len(whole) % 2) + struct.pack(">HH", 0xFFFF, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    data = with_boxes(secret.read_bytes(), {b"dref": struct.pack(">II", 0, 1) + entry})
    path = tmp_path / "refers.mov"
    path.write_bytes(data.replace(b"mdat", b"free"))
    with pytest.raises(VideoError):
        open_video(path)


def test_lines_of_text_may_begin_a_video(tmp_path):
    path = tmp_path / "grey.y4m"
    path.write_bytes(b"YUV4MPEG2 W128 H64 F25:1 C420jpeg\nFRAME\n" + b"d" * (128 * 64 * 3 // 2))
    with open_video(path) as video:
        assert (video.num_frames, video.width) == (1, 128)
