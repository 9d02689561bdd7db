from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from tests.video.conftest import write_video
from vactk.errors import VactkError
from vactk.retrieval.hits import Hit
from vactk.retrieval.results import contact_sheet as sheets
from vactk.retrieval.results import thumbnails
from vactk.retrieval.results.contact_sheet import CELL, GAP, HEADER, MARGIN, ROW, TEXT_WIDTH, contact_sheet
from vactk.retrieval.results.fonts import fitted, font
from vactk.video import stills
from vactk.video.container import VideoError
from vactk.video.reader import open_video


def hit(video, rank=1, start_s=0.0, end_s=2.0):
    return Hit(rank=rank, score=0.5, key=rank, video=video, start_s=start_s, end_s=end_s, label="dogs")


def cell(picture, row, column, top=MARGIN + HEADER):
    """The part of a sheet that shows a frame."""
    left = MARGIN + TEXT_WIDTH + column * (CELL[0] + GAP)
    return picture[top + row * ROW : top + row * ROW + CELL[1], left : left + CELL[0]].astype(float)


def test_a_row_shows_frames_of_the_hit_in_their_order(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=24, size=(CELL[1], CELL[0]))
    told = contact_sheet({"a dog": [hit(path), hit(path, 2, 1.0, 2.0)]}, tmp_path / "sheet.png", frames=4)
    assert told == []
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert picture.shape[0] == 2 * MARGIN + HEADER + 2 * ROW
    with open_video(path) as video:
        frames = video.read(range(24)).permute(0, 2, 3, 1).numpy().astype(float)  # (24, H, W, 3)
    upper = slice(0, CELL[1] - 30)  # above the time that is written in it

    def shown(row, column):
        return int(np.argmin([np.abs(cell(picture, row, column)[upper] - f[upper]).mean() for f in frames]))

    assert [shown(0, column) for column in range(4)] == [3, 9, 15, 21]  # of 2 s: at 0.25, 0.75, 1.25, 1.75
    assert [shown(1, column) for column in range(4)] == [13, 16, 19, 22]


def test_videos_that_vanished_become_rows_that_say_so(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    told = contact_sheet(
        {"x": [hit(tmp_path / "gone.mp4"), hit(path, 2)], "none": []}, tmp_path / "sheet.jpg"
    )
    assert len(told) == 1
    assert "gone.mp4" in told[0]
    picture = np.asarray(Image.open(tmp_path / "sheet.jpg"))
    assert picture.shape[0] == 2 * MARGIN + 2 * HEADER + 3 * ROW
    assert cell(picture, 0, 0).std() < cell(picture, 1, 0).std()


def test_a_video_on_which_the_decoder_hangs_is_given_up(tmp_path, monkeypatch):
    opened = stills.open_video
    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setattr(stills, "open_video", lambda path: time.sleep(60) or opened(path))
    with pytest.raises(VideoError, match=r"a\.mp4': reading it took over 0\.5 s"):
        thumbnails.hit_stills(hit(path, 1), 1, 32, timeout_s=0.5)


def test_a_sheet_never_grows_beyond_what_viewers_open(tmp_path, monkeypatch):
    monkeypatch.setattr(sheets, "LARGEST_HEIGHT", 1200)
    path = write_video(tmp_path / "a.mp4")
    hits = {f"query {n}": [hit(path, rank) for rank in range(1, 9)] for n in range(9)}
    told = contact_sheet(hits, tmp_path / "sheet.png", frames=1)
    assert Image.open(tmp_path / "sheet.png").height <= 1200
    assert "the first 4 of 9 queries" in told[0]


def test_kinds_of_pictures_and_files_that_exist_are_refused(tmp_path):
    (tmp_path / "taken.png").write_bytes(b"precious")
    for name, frames, message in (
        ("sheet.gif", 5, "image format for --sheet"),
        ("taken.png", 5, "exists; choose another"),
        ("sheet.png", 99, "1 to 16 frames"),
    ):
        with pytest.raises(VactkError, match=message):
            contact_sheet({"x": []}, tmp_path / name, frames)
    assert (tmp_path / "taken.png").read_bytes() == b"precious"


def test_long_texts_lose_their_middle_and_fit():
    for text in ("short.mp4", "a very long name " * 30 + "end.mp4", "日本語" * 50, ""):
        shown = fitted(text, 19, 200)
        assert font(shown, 19).getlength(shown) <= 200
        assert shown == text or ("..." in shown and shown[-1] == text[-1])
