import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.video.conftest import write_audio, write_video
from vactk.errors import VactkError
from vactk.video import VideoError, is_video_name, open_video


def make(kind: str, folder: Path) -> Path:
    path = folder / "12:30 [a]#&.mp4"
    match kind:
        case "folder":
            path.mkdir()
        case "audio":
            write_audio(path)
        case "cut":
            write_video(path)
            path.write_bytes(path.read_bytes()[:3000])
        case "missing":
            pass
        case "pipe":
            os.mkfifo(path)
        case _:
            path.write_bytes(
                {"html": b"\n<!DOCTYPE html><p>", "lfs": b"version https://git-lfs", "empty": b""}.get(
                    kind, os.urandom(5000)
                )
            )
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such file"),
        ("folder", "it is a folder"),
        ("pipe", "it is not a regular file"),
        ("empty", r"the file is empty \(0 bytes\)"),
        ("html", "it is a web page"),
        ("lfs", "git lfs pull"),
        ("audio", "it has no video stream, only audio"),
        ("cut", r"its index \(the moov box\) is missing"),
        ("noise", "it is damaged"),
    ],
)
def test_what_cannot_be_read_says_why_in_one_line(kind, reason, tmp_path):
    path = make(kind, tmp_path)
    with pytest.raises(VideoError, match=reason) as caught:
        open_video(path)
    assert isinstance(caught.value, VactkError)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_with_odd_characters_open(tmp_path, monkeypatch):
    path = write_video(tmp_path / "plain.mp4").rename(tmp_path / "a:b %03d [x] #é&.mp4")
    monkeypatch.chdir(tmp_path)
    with open_video(path.name) as video:
        assert video.num_frames == 24


def test_a_still_picture_is_a_video_of_one_frame(tmp_path):
    Image.new("RGB", (40, 30), (200, 10, 60)).save(tmp_path / "still.png")
    with open_video((tmp_path / "still.png").rename(tmp_path / "still.mp4")) as video:
        assert video.num_frames == 1
        assert video.read([0, 0])[1, :, 7, 9].tolist() == [200, 10, 60]


def test_a_file_cannot_make_us_connect(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        target = f"http://127.0.0.1:{server.getsockname()[1]}/part.ts"
        path = tmp_path / "list.m3u8"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n")
        with pytest.raises(VideoError, match="it is a playlist"):
            open_video(path)
        with pytest.raises(TimeoutError):
            server.accept()


def test_video_names():
    assert is_video_name("a/b.MP4")
    assert is_video_name(Path("clip.webm"))
    assert not is_video_name("labels.csv")
    assert not is_video_name("mp4")


def test_reading_damaged_files_lets_the_process_end(tmp_path):
    path = write_video(tmp_path / "video.mp4", num_frames=60, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-4000])
    code = "import sys; from vactk.video import open_video; open_video(sys.argv[1]).read([0])"
    done = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "only the first" in done.stderr
