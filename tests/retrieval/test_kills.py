"""Indexes whose writer is killed at any step are brought up to date to what they would have been."""

from __future__ import annotations

import dataclasses
import sqlite3
import sys
from contextlib import closing
from types import SimpleNamespace

import pytest
import torch

from tests.retrieval.conftest import facts, reading
from tests.retrieval.stores import DIM, embedded, unreadable
from tests.tracing import files_of, states
from vactk.errors import VactkError
from vactk.retrieval.index import sqlite_store
from vactk.retrieval.index import update as indexing
from vactk.retrieval.index.file_identity import FileState
from vactk.retrieval.index.sources import VideoSource
from vactk.retrieval.index.sqlite_store import TABLE, LocalStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are traced as Linux does it")

ALONE = SimpleNamespace(is_main_process=True, num_processes=1)
PROBES = torch.nn.functional.normalize(
    torch.randn(3, DIM, generator=torch.Generator().manual_seed(0)), dim=-1
)
FIRST = [embedded(0), embedded(1, windows=3, label="dogs"), unreadable(2), embedded(3, windows=2)]


def changed(video):
    """The same file after it was written again."""
    item = dataclasses.replace(video.item, state=FileState(999, 6))
    return dataclasses.replace(video, item=item)


THEN = [FIRST[0], changed(embedded(1, windows=2)), changed(embedded(3)), embedded(4, windows=3)]


def bring_up_to_date(folder, videos, method="auto", per_write=1):
    """As `vactk retrieve --add` does, with drawn vectors."""
    by_key = {video.item.key: video for video in videos}

    def embed(model, items, *args, **settings):
        return ([by_key[item.key]] for item in items)

    store = LocalStore(folder, method)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(indexing, "embed_videos", embed)
            patch.setattr(indexing, "COMMIT_VIDEOS", per_write)
            store.begin(facts())
            source = VideoSource("here", [video.item for video in videos], [], [])
            indexing.update_index(store, None, source, reading(), ALONE, batch_size=1)
            store.finish(PROBES, lambda line: None)
    finally:
        store.close()


def content(folder):
    """All files, of the table what it holds: how SQLite lays that out depends on its past."""
    with closing(sqlite3.connect(folder / TABLE)) as table:
        rows = list(table.iterdump())
    return {**files_of(folder), TABLE: rows}


def restore(files, folder):
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def resume_all(tmp_path, past, killed, resumed):
    """Each of the arguments is of `bring_up_to_date`; `past` is what was there before."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        for former in past:
            bring_up_to_date(folder, *former)
    bring_up_to_date(whole, *killed, per_write=3)
    bring_up_to_date(whole, *resumed)
    expected, number = content(whole), 0
    for number, files in enumerate(states(lambda: bring_up_to_date(broken, *killed, per_write=2), broken)):
        folder = tmp_path / str(number)
        restore(files, folder)
        bring_up_to_date(folder, *resumed)
        assert content(folder) == expected, f"killed with {sorted(files)}"
    return number + 1


@pytest.mark.parametrize("past", [[], [(FIRST,)]], ids=["new", "changed"])
def test_whatever_a_kill_leaves_becomes_the_unbroken_index(tmp_path, monkeypatch, past):
    monkeypatch.setattr(sqlite_store, "SHARD_ROWS", 4)
    videos = THEN if past else FIRST
    assert resume_all(tmp_path, past, (videos,), (videos,)) > 100


@pytest.mark.parametrize(
    ("past", "killed", "resumed"),
    [
        ("exact", (FIRST, "approximate"), (FIRST, "approximate")),
        ("approximate", (FIRST[1:], "approximate"), (FIRST[1:], "approximate")),
        ("approximate", (FIRST, "exact"), (FIRST, "approximate")),
    ],
    ids=["made", "updated", "removed"],
)
def test_approximate_search_is_made_updated_and_removed_whenever_it_is_killed(
    tmp_path, past, killed, resumed
):
    pytest.importorskip("faiss", reason="needs pip install 'vactk[faiss]'")
    assert resume_all(tmp_path, [(FIRST, past)], killed, resumed) > 1


@pytest.mark.parametrize("has_table", [False, True])
def test_nothing_but_an_indexs_own_files_is_removed(tmp_path, has_table):
    """Names that are nearly those of leftovers are other people's; where there is no index, so are all."""
    folder = tmp_path / "index"
    if has_table:
        bring_up_to_date(folder, FIRST)
    folder.mkdir(exist_ok=True)
    own = {".index.sqlite.tmp", ".index.sqlite.tmp-journal", ".vectors-0123456789abcdef.safetensors.tmp",
           ".approximate.faiss.0a1b2c-77.01234567.tmp"}  # fmt: skip
    others = {"holiday.mp4", ".index.sqlite.tmp~", "vectors-mine.safetensors", ".notes.tmp", "index.sqlite-old",
              ".vectors-mine.safetensors.0a1b2c-77.01234567.tmp"}  # fmt: skip
    for name in own | others:
        (folder / name).write_text(name)
    (folder / ".approximate.json.tmp").mkdir()
    before = files_of(folder)
    if has_table:
        bring_up_to_date(folder, FIRST)
        assert before.keys() - files_of(folder).keys() == own
        assert all((folder / name).read_text() == name for name in others)
        assert (folder / ".approximate.json.tmp").is_dir()
    else:
        with pytest.raises(VactkError, match="is not empty and no index"):
            bring_up_to_date(folder, FIRST)
        assert files_of(folder) == before


def test_a_journal_without_its_table_is_not_played_into_the_next(tmp_path):
    """Half of what an earlier vactk left: its table is gone, the journal is not."""
    folder, fresh = tmp_path / "index", tmp_path / "fresh"
    folder.mkdir()
    (folder / ".index.sqlite.tmp-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(1020))
    for path in (folder, fresh):
        bring_up_to_date(path, FIRST)
    assert content(folder) == content(fresh)
