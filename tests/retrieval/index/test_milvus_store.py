from __future__ import annotations

import pytest
import torch

from tests.retrieval.conftest import facts
from tests.retrieval.stores import DIM, best, content, embedded, unreadable
from vactk.errors import VactkError
from vactk.retrieval.index.sqlite_store import LocalStore

pytest.importorskip("pymilvus", reason="needs pip install 'vactk[milvus]'")
pytest.importorskip("milvus_lite", reason="needs pip install 'vactk[milvus]'")
from vactk.retrieval.index.milvus_store import MilvusStore


@pytest.fixture
def stores(tmp_path):
    """The same writes to a folder and to Milvus Lite."""
    both = [LocalStore(tmp_path / "index"), MilvusStore(str(tmp_path / "clips.db"), "clips")]
    for store in both:
        store.begin(facts())
        store.write([embedded(n, windows=1 + n % 3, label="Dogs" if n % 2 else "") for n in range(8)])
        store.write([unreadable(20), embedded(1, windows=1)])
        store.drop(["/videos/Clip 5.mp4"])
        store.finish(torch.zeros(1, DIM), lambda line: None)
    yield both
    for store in both:
        store.close()


def test_milvus_holds_what_a_folder_holds(stores):
    local, milvus = stores
    assert content(milvus) == content(local)
    assert milvus.known() == local.known()
    assert milvus.counts()[:3] == local.counts()[:3]
    assert milvus.labels() == local.labels()
    assert milvus.vectors(embedded(2).item.record.video).shape == (3, DIM)
    assert milvus.vectors(embedded(5).item.record.video) is None


@pytest.mark.parametrize(
    "only",
    [{}, {"label": "dogs"}, {"path": "clip ?"}, {"path": "*2"}, {"path": "_"}, {"path": '"', "label": '"'}],
)
def test_milvus_finds_what_a_folder_finds(stores, only):
    local, milvus = stores
    for seed in range(3):
        query = torch.randn(DIM, generator=torch.Generator().manual_seed(seed))
        ours, theirs = best(local, query, 4, **only), best(milvus, query, 4, **only)
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        assert [score for _, score in theirs] == pytest.approx([score for _, score in ours], abs=5e-3)


def test_milvus_opens_again_with_what_it_was_made_with(stores, tmp_path):
    milvus = stores[1]
    before = content(milvus)
    milvus.close()
    again = MilvusStore(str(tmp_path / "clips.db"), "clips")
    assert again.facts == facts()
    assert content(again) == before
    again.begin(facts())
    again.write([embedded(2, windows=3)])  # the same again changes nothing
    assert content(again) == before
    stores[1] = again


@pytest.mark.parametrize("step", ["create_index", "upsert"])
def test_a_kill_while_a_collection_is_made_leaves_one_that_is_made_anew(tmp_path, monkeypatch, step):
    class Killed(BaseException):
        """Ends what is done as a kill does: nothing is tidied up."""

    def kill(*given, **named):
        raise Killed

    path = str(tmp_path / "clips.db")
    first = MilvusStore(path, "clips")
    monkeypatch.setattr(first._client, step, kill)
    with pytest.raises(Killed):
        first.begin(facts(dim=DIM - 3))
    first.close()
    again = MilvusStore(path, "clips")
    assert again.facts is None
    again.begin(facts())
    again.write([embedded(1, windows=2)])
    assert len(content(again)) == 2
    again.close()


def test_a_collection_that_is_no_index_is_refused_and_kept(stores, tmp_path):
    client = stores[1]._client
    client.create_collection("mine", dimension=DIM)
    client.insert("mine", [{"id": 1, "vector": [0.5] * DIM}])
    client.create_collection("empty", dimension=DIM)
    client.delete("clips", filter="key == 0")  # rows of an index whose facts are lost
    stores[1].close()
    for name in ("mine", "empty", "clips"):
        with pytest.raises(VactkError, match=f"'{name}' is not an index of vactk's"):
            MilvusStore(str(tmp_path / "clips.db"), name)


def test_names_and_servers_that_do_not_do_are_refused(tmp_path):
    with pytest.raises(VactkError, match="cannot name a collection"):
        MilvusStore(str(tmp_path / "clips.db"), "my clips")
    with pytest.raises(VactkError, match="Milvus cannot serve"):
        MilvusStore("http://127.0.0.1:9", "clips")
