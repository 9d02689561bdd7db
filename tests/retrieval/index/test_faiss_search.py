from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.retrieval.conftest import facts
from tests.retrieval.stores import embedded
from vactk.errors import VactkError
from vactk.retrieval.hits import SearchFilter
from vactk.retrieval.index import faiss_search
from vactk.retrieval.index.sqlite_store import LocalStore

DIM = 16
NOTHING = SearchFilter()


def clustered(number: int, seed: int = 0) -> torch.Tensor:
    """(number, DIM) unit vectors around 20 centres, as those of videos are."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, DIM, generator=torch.Generator().manual_seed(99))
    chosen = torch.randint(20, (number,), generator=generator)
    return F.normalize(centres[chosen] + 0.3 * torch.randn(number, DIM, generator=generator), dim=-1)


def videos(first: int, vectors: torch.Tensor):
    from dataclasses import replace

    return [replace(embedded(first + n), vectors=vector[None]) for n, vector in enumerate(vectors)]


@pytest.fixture
def made(tmp_path):
    """A store of 3,000 videos with approximate search, and what was said."""
    pytest.importorskip("faiss", reason="needs pip install 'vactk[faiss]'")
    said: list[str] = []
    store = LocalStore(tmp_path / "index", "approximate")
    store.begin(facts(DIM))
    store.write(videos(0, clustered(3000)))
    store.finish(clustered(100, seed=1), said.append)
    yield store, said
    store.close()


def shared(one, other) -> float:
    return float(np.mean([len({*a.keys} & {*b.keys}) / len(b.keys) for a, b in zip(one, other, strict=True)]))


def test_the_recall_that_is_told_is_reached_and_scores_are_exact(made):
    store, said = made
    assert len(said) == 1
    assert "recall@10" in said[0]
    exact = LocalStore(store.folder, "exact")
    queries = clustered(50, seed=2)
    found, true = store.nearest(queries, 10, NOTHING), exact.nearest(queries, 10, NOTHING)
    assert shared(found, true) > 0.9
    assert "faiss" in store.counts().method
    assert exact.counts().method == "exact"
    for ours, theirs in zip(found, true, strict=True):
        scores = dict(zip(theirs.keys, theirs.scores, strict=True))
        for key, score in zip(ours.keys, ours.scores, strict=True):
            assert key not in scores or score == pytest.approx(scores[key], abs=1e-6)


def test_it_keeps_up_with_the_index(made):
    store, said = made
    new = clustered(40, seed=3)
    store.write(videos(5000, new))
    store.drop([f"/videos/Clip {n}.mp4" for n in range(100)])
    assert store.counts().method == "exact"  # until it is brought up to date
    store.finish(clustered(100, seed=1), said.append)
    assert "faiss" in store.counts().method
    assert len(said) == 2
    found = store.nearest(new[:5], 1, NOTHING)
    names = [store.entries(one.keys)[one.keys[0]].video.name for one in found]
    assert names == [f"Clip {5000 + n}.mp4" for n in range(5)]
    gone = store.nearest(clustered(3000)[:100], 10, NOTHING)
    kept = {e.video.name for one in gone for e in store.entries(one.keys).values()}
    assert kept.isdisjoint(f"Clip {n}.mp4" for n in range(100))


def test_a_damaged_file_of_it_leaves_exact_search(made):
    store, _ = made
    (store.folder / faiss_search.INDEX).write_bytes(b"nothing of faiss's")
    other = LocalStore(store.folder)
    assert other.counts().method == "exact"
    assert other.nearest(clustered(1), 1, NOTHING)[0].keys


def test_small_indexes_are_scanned(tmp_path):
    store = LocalStore(tmp_path / "index")
    store.begin(facts(DIM))
    store.write(videos(0, clustered(300)))
    store.finish(clustered(10), lambda line: None)
    assert store.counts().method == "exact"
    assert not (store.folder / faiss_search.INDEX).exists()


def test_without_faiss_one_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    store = LocalStore(tmp_path / "index", "approximate")
    store.begin(facts(DIM))
    store.write(videos(0, clustered(300)))
    with pytest.raises(VactkError, match=r"pip install 'vactk\[faiss\]'"):
        store.finish(clustered(10), lambda line: None)
