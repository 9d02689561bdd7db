from __future__ import annotations

import json
import multiprocessing
import sqlite3

import numpy as np
import pytest
import torch

from tests.retrieval.conftest import facts
from tests.retrieval.stores import DIM, best, content, embedded, unreadable
from vactk.errors import VactkError
from vactk.retrieval.hits import SearchFilter
from vactk.retrieval.index import shards, sqlite_store
from vactk.retrieval.index.shards import Shard, nearest
from vactk.retrieval.index.sqlite_store import LocalStore
from vactk.weights.safetensors_file import save_tensors


def silent(line: str) -> None:
    pass


@pytest.fixture
def store(tmp_path):
    store = LocalStore(tmp_path / "index")
    store.begin(facts())
    yield store
    store.close()


def finish(store):
    store.finish(torch.zeros(1, DIM), silent)


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_search_equals_sorting_all_products(monkeypatch, tmp_path, block):
    monkeypatch.setattr(shards, "BLOCK_BYTES", 16 * block)
    monkeypatch.setattr(shards, "SCAN_ROWS", 2 * block)
    monkeypatch.setattr(shards, "QUERIES_AT_ONCE", 2)
    vectors = torch.randint(-2, 3, (25, 4), generator=torch.Generator().manual_seed(0)).half()  # ties
    parts = [
        Shard(tmp_path, vectors[:10], np.arange(10)),
        Shard(tmp_path, vectors[10:], np.where(np.arange(15) % 4 == 0, -1, np.arange(10, 25))),
    ]
    queries = torch.randint(-2, 3, (5, 4), generator=torch.Generator().manual_seed(1)).float()
    for allowed in (None, np.array([1, 4, 11, 12, 23])):
        found = nearest(parts, queries, 6, allowed)
        for query, one in zip(queries, found, strict=True):
            live = [key for part in parts for key in part.keys if key >= 0]
            live = [key for key in live if allowed is None or key in allowed]
            ranked = sorted((-float(query @ vectors[key].float()), key) for key in live)[:6]
            assert [(-score, key) for key, score in zip(one.keys, one.scores, strict=True)] == ranked


def test_what_was_written_is_found_by_another_opening(store):
    store.write([embedded(1, windows=3, label="dogs"), unreadable(2), embedded(3)])
    other = LocalStore(store.folder)
    assert content(other) == {
        *(("/videos/Clip 1.mp4", float(n), n + 1.0, "dogs") for n in range(3)),
        ("/videos/Clip 3.mp4", 0.0, 1.0, ""),
    }
    assert other.counts()[:3] == (2, 4, 1)
    assert other.labels() == ["dogs"]
    assert other.facts == facts()
    known = other.known()
    assert list(known) == [f"/videos/Clip {number}.mp4" for number in (1, 2, 3)]
    assert known["/videos/Clip 2.mp4"].problem
    assert known["/videos/Clip 1.mp4"].state == (101, 5)
    query = embedded(3).vectors[0]
    name, score = best(other, query)[0]
    assert name == "Clip 3.mp4"
    assert score == pytest.approx(1, abs=2e-3)  # stored in half precision
    torch.testing.assert_close(
        other.vectors(embedded(1).item.record.video), embedded(1, windows=3).vectors, atol=1e-3, rtol=0
    )
    assert other.vectors(embedded(9).item.record.video) is None


def test_a_video_that_is_written_again_replaces_itself_and_dropped_ones_go(store):
    store.write([embedded(n, windows=2) for n in range(5)])
    store.write([embedded(1, windows=1)])
    store.drop(["/videos/Clip 3.mp4", "/videos/never there.mp4"])
    expected = {
        (f"/videos/Clip {n}.mp4", float(w), w + 1.0, "")
        for n, count in ((0, 2), (1, 1), (2, 2), (4, 2))
        for w in range(count)
    }
    assert content(store) == expected
    before = store.entries(range(1, 20))
    finish(store)
    assert content(store) == expected
    assert store.entries(range(1, 20)) == before  # a hit that a page shows keeps its key
    files = [path.name for path in store.folder.glob("vectors-*")]
    assert len(files) == 1
    assert len(store._shards[0].keys) == 7  # nothing dead is left


def test_however_it_was_written_the_same_files_are_left(tmp_path):
    left = []
    for number, sizes in enumerate(([9], [1, 4, 4], [3, 3, 3])):
        store = LocalStore(tmp_path / str(number))
        store.begin(facts())
        videos = iter([embedded(n, windows=1 + n % 3) for n in range(9)])
        for size in sizes:
            store.write([next(videos) for _ in range(size)])
        finish(store)
        left.append({path.name: path.read_bytes() for path in store.folder.glob("vectors-*")})
        store.close()
    assert left[0] == left[1] == left[2]


def test_large_files_are_left_alone_in_merging(store, monkeypatch):
    monkeypatch.setattr(sqlite_store, "SHARD_ROWS", 4)
    for n in range(10):
        store.write([embedded(n)])
    finish(store)
    assert sorted(len(shard.keys) for shard in store._shards) == [2, 4, 4]
    whole = {shard.path.name for shard in store._shards if len(shard.keys) == 4}
    store.write([embedded(11)])
    finish(store)
    assert whole <= {path.name for path in store.folder.glob("vectors-*")}
    assert len(content(store)) == 11


def test_a_reader_sees_what_is_written_while_it_is_open(store):
    store.write([embedded(1)])
    reader = LocalStore(store.folder)
    assert len(content(reader)) == 1
    store.write([embedded(2)])
    assert len(content(reader)) == 2
    finish(store)  # the files that the reader has open are merged away
    assert len(content(reader)) == 2
    store.drop(["/videos/Clip 1.mp4"])
    assert content(reader) == {("/videos/Clip 2.mp4", 0.0, 1.0, "")}


def test_files_of_a_killed_write_count_for_nothing_and_go(store):
    store.write([embedded(1)])
    stray = store.folder / "vectors-0123456789abcdef.safetensors"
    stray.write_bytes(b"half of a file")
    (store.folder / ".index.sqlite.tmp").write_bytes(b"half of a table")
    assert len(content(LocalStore(store.folder))) == 1
    store.close()
    again = LocalStore(store.folder)
    again.begin(facts())
    assert not stray.exists()
    assert len(content(again)) == 1


def _write_elsewhere(folder, answers):
    try:
        LocalStore(folder).begin(facts())
        answers.put("took it")
    except VactkError as error:
        answers.put(str(error))


def test_a_second_writer_is_refused_while_the_first_is_at_work(store):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    for expected in ("another process is adding", "took it"):
        process = context.Process(target=_write_elsewhere, args=(store.folder, answers))
        process.start()
        assert expected in answers.get(timeout=30)
        process.join()
        store.close()


def test_filters_are_by_path_and_label_without_regard_to_case(store):
    store.write([embedded(1, label="Dogs"), embedded(2, label="cats"), embedded(3)])
    query = torch.ones(DIM)

    def names(**only):
        return sorted(name for name, _ in best(store, query, 10, **only))

    assert names(label="dogs") == ["Clip 1.mp4"]
    assert names(label="birds") == []
    assert names(path="clip ?.MP4") == ["Clip 1.mp4", "Clip 2.mp4", "Clip 3.mp4"]
    assert names(path="videos/*2") == ["Clip 2.mp4"]
    assert names(path="[1]") == []  # as itself, not as a range
    assert names(path="1", label="cats") == []


def corrupt_table(folder):
    (folder / sqlite_store.TABLE).write_bytes(b"not a table of SQLite's at all, but long enough" * 100)


def cut_vectors(folder):
    (path,) = folder.glob("vectors-*")
    path.write_bytes(path.read_bytes()[:-20])


def lose_vectors(folder):
    (path,) = folder.glob("vectors-*")
    path.unlink()


def swap_vectors(folder):
    (path,) = folder.glob("vectors-*")
    save_tensors(path, {"vectors": torch.zeros(2, 3).half(), "keys": torch.arange(2)}, {})


def other_format(folder):
    with sqlite3.connect(folder / sqlite_store.TABLE) as table:
        content = json.loads(table.execute("SELECT content FROM facts").fetchone()[0])
        table.execute("UPDATE facts SET content = ?", (json.dumps({**content, "format": 99}),))


def other_facts(folder):
    with sqlite3.connect(folder / sqlite_store.TABLE) as table:
        table.execute("UPDATE facts SET content = '[1, 2]'")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (corrupt_table, "is damaged"),
        (cut_vectors, "is damaged"),
        (lose_vectors, "is missing"),
        (swap_vectors, "does not hold 1 vectors of 8 numbers"),
        (other_format, "has format 99, this vactk [0-9]"),
        (other_facts, "is damaged"),
    ],
)
def test_a_damaged_index_is_named_and_refused(store, damage, message):
    store.write([embedded(1)])
    store.close()
    damage(store.folder)
    with pytest.raises(VactkError, match=message):
        LocalStore(store.folder).nearest(torch.ones(1, DIM), 3, SearchFilter())


def test_only_an_empty_folder_becomes_an_index(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"precious")
    with pytest.raises(VactkError, match="not empty and no index"):
        LocalStore(tmp_path).begin(facts())
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]
    with pytest.raises(VactkError, match="is a file"):
        LocalStore(tmp_path / "holiday.mp4")


def test_an_empty_index_answers_that_it_is_empty(store):
    assert content(store) == set()
    assert store.counts()[:3] == (0, 0, 0)
    finish(store)
    with pytest.raises(VactkError, match="there is no index"):
        LocalStore(store.folder.parent / "nowhere").nearest(torch.ones(1, DIM), 3, SearchFilter())
