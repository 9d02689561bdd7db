from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.retrieval.conftest import reading
from tests.retrieval.stores import content
from tests.video.conftest import write_video
from vactk.data import windows
from vactk.errors import VactkError
from vactk.evaluate.embedding import embed_texts, embed_views
from vactk.models.backbone import BackboneConfig
from vactk.models.temporal.frame_attention import NeighbourAttentionConfig
from vactk.models.video_model import ModelConfig, new_model
from vactk.retrieval.hits import SearchFilter
from vactk.retrieval.index import update as indexing
from vactk.retrieval.index.embedding import model_fingerprint
from vactk.retrieval.index.sources import read_source
from vactk.retrieval.index.sqlite_store import LocalStore
from vactk.retrieval.index.store import IndexEntry, Neighbors, item_key, thin_out
from vactk.retrieval.index.update import (
    check_model,
    embed_videos,
    make_metadata,
    typical_queries,
    update_index,
)
from vactk.retrieval.search import Searcher
from vactk.video.reader import sample_video
from vactk.video.sampling import uniform_segments
from vactk.video.transforms import eval_transform

CPU = torch.device("cpu")
STATED = {"stated": {"backbone": {"name": "toy"}}}


class Made:
    """An index of a folder, kept up to date by `add`."""

    def __init__(self, model, accelerator, folder, where, set_up=None, batch_size=2):
        self.model, self.accelerator, self.folder, self.batch_size = model, accelerator, folder, batch_size
        self.reading = set_up or reading()
        self.store = LocalStore(where)

    def add(self, **options):
        self.store.begin(make_metadata(self.model, STATED, self.reading, model_fingerprint(self.model)))
        change = update_index(
            self.store,
            self.model,
            read_source(str(self.folder)),
            self.reading,
            self.accelerator,
            batch_size=self.batch_size,
            **options,
        )
        self.store.finish(torch.zeros(1, 48), lambda line: None)
        return change

    def files(self):
        return {path.name: path.read_bytes() for path in self.store.folder.glob("vectors-*")}

    def searcher(self):
        return Searcher(self.store, self.model, self.reading.data, CPU)


@pytest.fixture
def made(model, accelerator, folder, tmp_path):
    made = Made(model, accelerator, folder, tmp_path / "index")
    yield made
    made.store.close()


def test_vectors_are_the_models_own(made, model):
    made.add()
    for path in made.folder.rglob("*.mp4"):
        sample = sample_video(path, lambda timeline: uniform_segments(timeline.num_frames, 3).flatten())
        video = eval_transform(made.reading.data.transform, 64, model.backbone.mean, model.backbone.std)(
            sample.frames
        )
        with torch.no_grad():
            expected = F.normalize(model.video_clip.encode_video(video), dim=-1)
        torch.testing.assert_close(made.store.vectors(path), expected, atol=2e-3, rtol=0)


def test_vectors_of_views_and_of_frames_are_pooled_as_stated():
    """Views by the mean of their unit vectors; frames, for models that compare these, by CLIP4Clip's meanP."""
    config = ModelConfig(
        backbone=BackboneConfig(name="toy"), temporal=NeighbourAttentionConfig(), similarity="frames"
    )
    model = new_model(config)
    views = torch.randn(2, 3, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = embed_views(model, views)
    with torch.no_grad():
        frames = model.video_clip.video_features(views.flatten(0, 1)).frames
    per_view = F.normalize(F.normalize(frames, dim=-1).mean(1), dim=-1)
    expected = F.normalize(per_view.unflatten(0, (2, 3)).mean(1), dim=-1)
    torch.testing.assert_close(found, expected)


def test_only_what_is_new_or_has_changed_is_read_and_what_is_gone_goes(made, monkeypatch):
    read = []
    original = indexing.embed_videos
    monkeypatch.setattr(
        indexing,
        "embed_videos",
        lambda model, items, *args, **kw: read.append(len(items)) or original(model, items, *args, **kw),
    )
    first = made.add()
    assert (first.added, first.unchanged, first.dropped) == (6, 0, 0)
    again = made.add()
    assert (again.added, again.unchanged) == (0, 6)
    (made.folder / "a" / "one.mp4").unlink()
    shutil.copy(made.folder / "five.mp4", made.folder / "b" / "three.mp4")
    write_video(made.folder / "new.mp4")
    change = made.add()
    assert (change.added, change.replaced, change.unchanged, change.dropped) == (1, 1, 4, 1)
    assert read == [6, 0, 2]
    names = {path.split("/")[-1] for path, *_ in content(made.store)}
    assert names == {"two.mp4", "three.mp4", "four.mp4", "five.mp4", "six [1].mp4", "new.mp4"}
    same = made.store.vectors(made.folder / "five.mp4")
    torch.testing.assert_close(made.store.vectors(made.folder / "b" / "three.mp4"), same, atol=1e-3, rtol=0)


def test_unreadable_files_are_told_and_tried_again_when_asked(made):
    broken = made.folder / "broken.mp4"
    broken.write_bytes(b"not a video")
    first = made.add()
    assert list(first.failed) == [str(broken)]
    assert "broken.mp4" in first.failed[str(broken)]
    known = made.add()
    assert (known.unchanged, list(known.failed)) == (7, [str(broken)])
    state = broken.stat()
    good = (made.folder / "five.mp4").read_bytes()
    broken.write_bytes(good[: state.st_size] + b"")
    os.utime(broken, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert list(made.add(retry=True).failed) == [str(broken)]
    broken.write_bytes(good)
    mended = made.add()
    assert (mended.replaced, mended.failed) == (1, {})
    assert len(content(made.store)) == 7


@pytest.mark.parametrize("set_up", [reading(), reading(0.5, 0.25)])
@pytest.mark.parametrize("dies_at", [1, 2, 3])
def test_an_index_that_was_killed_becomes_the_same_to_the_last_bit(
    model, accelerator, folder, tmp_path, monkeypatch, set_up, dies_at
):
    monkeypatch.setattr(indexing, "COMMIT_VIDEOS", 1)  # after each batch
    whole = Made(model, accelerator, folder, tmp_path / "whole", set_up)
    whole.add()
    killed = Made(model, accelerator, folder, tmp_path / "killed", set_up)
    original, calls = LocalStore.write, []

    def dying(store, videos):
        calls.append(len(videos))
        if len(calls) == dies_at:
            raise ZeroDivisionError("the process is killed")
        original(store, videos)

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(LocalStore, "write", dying)
        killed.add()
    killed.store.close()
    again = Made(model, accelerator, folder, tmp_path / "killed", set_up)
    change = again.add()
    assert change.unchanged == sum(calls[:-1])
    assert change.added + change.unchanged == 6
    assert again.files() == whole.files()
    assert content(again.store) == content(whole.store)


def test_a_long_video_in_pieces_has_the_vectors_of_the_video_in_one(
    model, accelerator, tmp_path, monkeypatch
):
    folder = tmp_path / "clips"
    folder.mkdir()
    write_video(folder / "long.mp4", num_frames=60)
    write_video(folder / "short.mp4", num_frames=12)
    set_up = reading(0.5, 0.25)
    source = read_source(str(folder))
    whole = [v for part in embed_videos(model, source.items, set_up, accelerator, batch_size=8) for v in part]
    monkeypatch.setattr("vactk.data.windows.CHUNK", 4)
    parts = [v for part in embed_videos(model, source.items, set_up, accelerator, batch_size=8) for v in part]
    assert [video.item.key for video in parts] == [video.item.key for video in whole]
    for one, other in zip(parts, whole, strict=True):
        assert one.spans == other.spans
        torch.testing.assert_close(one.vectors, other.vectors, atol=1e-5, rtol=0)


def test_another_model_or_other_frames_are_refused(made):
    made.add()
    own = model_fingerprint(made.model)
    check_model(made.store, own, reading())
    with pytest.raises(VactkError, match="made with another model"):
        check_model(made.store, "0123", reading())
    for other in (reading(2.0), reading(views=2)):
        with pytest.raises(VactkError, match="other frames, views or windows"):
            check_model(made.store, own, other)


def test_sources_are_folders_files_and_datasets(folder, tmp_path):
    source = read_source(str(folder))
    labels = {item.record.video.name: item.label for item in source.items}
    assert labels == {
        "one.mp4": "a", "two.mp4": "a", "three.mp4": "b", "four.mp4": "b", "five.mp4": "", "six [1].mp4": "",
    }  # fmt: skip
    assert [item.key for item in read_source(str(folder / "five.mp4")).items] == [str(folder / "five.mp4")]
    table = tmp_path / "list.csv"
    table.write_text(
        "path,label,start,end\nclips/a/one.mp4,dogs,0,0.5\nclips/a/one.mp4,dogs,0.5,1\nclips/gone.mp4,dogs,0,1\n"
    )
    listed = read_source(str(table), "all")
    assert [item_key(item.record).split("#")[-1] for item in listed.items] == ["t=0,0.5", "t=0.5,1"]
    assert [item.label for item in listed.items] == ["dogs", "dogs"]
    assert len(listed.missing) == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(VactkError, match="no videos in"):
        read_source(str(empty))
    with pytest.raises(VactkError, match="nothing_here"):
        read_source(str(tmp_path / "nothing_here"))


def test_text_finds_the_nearest_by_the_models_own_similarity(made, model):
    made.add()
    queries = ["a red square", "a blue circle on grey"]
    hits = made.searcher().by_text(queries, SearchFilter(top=6))
    vectors = {path: made.store.vectors(path)[0] for path in made.folder.rglob("*.mp4")}
    with torch.no_grad():
        texts = F.normalize(model.video_clip.backbone.encode_text(model.backbone.tokenize(queries)), dim=-1)
    for text, found in zip(texts, hits, strict=True):
        assert [hit.rank for hit in found] == [1, 2, 3, 4, 5, 6]
        ranked = sorted(vectors, key=lambda path: -float(text @ vectors[path]))
        assert [hit.video for hit in found] == ranked
        assert found[0].score == pytest.approx(float(text @ vectors[ranked[0]]), abs=1e-5)
    least = hits[0][2].score
    assert len(made.searcher().by_text(queries[:1], SearchFilter(top=6, min_score=least))[0]) == 3
    assert len(made.searcher().by_text(queries[:1], SearchFilter(top=6, label="A"))[0]) == 2


def test_a_video_finds_others_like_it_and_not_itself(made, tmp_path):
    made.add()
    known = made.folder / "five.mp4"
    hits = made.searcher().by_video(known, SearchFilter(top=3))
    assert known not in [hit.video for hit in hits]
    stranger = tmp_path / "stranger.mp4"
    shutil.copy(known, stranger)
    found = made.searcher().by_video(stranger, SearchFilter(top=3))
    assert found[0].video == known
    assert found[0].score == pytest.approx(1, abs=1e-3)
    with pytest.raises(VactkError, match=r"gone\.mp4"):
        made.searcher().by_video(tmp_path / "gone.mp4", SearchFilter())


def test_a_video_to_compare_with_is_given_up_where_it_hangs(made, tmp_path, monkeypatch):
    made.add()
    stranger = write_video(tmp_path / "stranger.mp4")
    monkeypatch.setattr(windows, "open_video", lambda path, decoder: time.sleep(60))
    searcher = made.searcher()
    searcher.data = replace(searcher.data, timeout_s=0.5)
    with pytest.raises(VactkError, match=r"stranger\.mp4': reading it took over 0\.5 s"):
        searcher.by_video(stranger, SearchFilter())


def test_queries_that_are_none_are_refused_and_long_ones_cut(made):
    made.add()
    searcher = made.searcher()
    for query, message in ((" ", "is empty"), ("x" * 20_000, "20,000 characters")):
        with pytest.raises(VactkError, match=message):
            searcher.by_text([query], SearchFilter())
    long = "a red star that moves. " * 40
    (hits,) = searcher.by_text([long], SearchFilter(top=1))
    assert hits
    assert searcher.cut == [" ".join(long.split())]
    searcher.by_text(["a star"], SearchFilter())
    assert searcher.cut == []
    for wrong in ({"top": 0}, {"per_video": -1}):
        with pytest.raises(VactkError):
            SearchFilter(**wrong)
    with pytest.raises(VactkError, match="at most 10,000"):
        searcher.by_text(["a star"], SearchFilter(top=10_001))


def test_hits_leave_out_the_same_moment_and_more_windows_of_a_video_than_wanted():
    from pathlib import Path

    a, b = Path("a.mp4"), Path("b.mp4")
    entries = {
        1: IndexEntry(a, 0.0, 10.0, ""),
        2: IndexEntry(a, 4.0, 14.0, ""),  # mostly the same as 1
        3: IndexEntry(a, 5.0, 15.0, ""),  # half of it is: another moment
        4: IndexEntry(b, 0.0, 10.0, "x"),
        5: IndexEntry(a, 30.0, 40.0, ""),
    }
    found = Neighbors([1, 2, 9, 3, 4, 5], [0.9, 0.8, 0.75, 0.7, 0.6, 0.5])  # 9 is gone
    assert [hit.key for hit in thin_out(found, entries, SearchFilter())] == [1, 3, 4, 5]
    assert [hit.key for hit in thin_out(found, entries, SearchFilter(per_video=1))] == [1, 4]
    assert [hit.key for hit in thin_out(found, entries, SearchFilter(top=2))] == [1, 3]
    assert [hit.key for hit in thin_out(found, entries, SearchFilter(min_score=0.6))] == [1, 3, 4]
    assert [hit.rank for hit in thin_out(found, entries, SearchFilter())] == [1, 2, 3, 4]


def test_enough_hits_come_where_many_windows_are_left_out(model, accelerator, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(4):
        write_video(folder / f"{number}.mp4", num_frames=60, size=(48, 64 + 8 * number))
    made = Made(model, accelerator, folder, tmp_path / "index", reading(0.5, 0.1))
    made.add()
    assert made.store.counts().entries > 100
    (hits,) = made.searcher().by_text(["a square"], SearchFilter(top=4, per_video=1))
    assert len({hit.video for hit in hits}) == 4


def test_probes_are_unit_vectors_of_many_texts(model):
    probes = typical_queries(model, CPU)
    assert len(probes) > 200
    torch.testing.assert_close(probes.norm(dim=-1), torch.ones(len(probes)))


def test_texts_are_embedded_as_by_open_clip(model):
    texts = [f"a thing number {n}" for n in range(5)]
    with torch.no_grad():
        expected = F.normalize(model.video_clip.backbone.encode_text(model.backbone.tokenize(texts)), dim=-1)
    torch.testing.assert_close(embed_texts(model, texts, CPU).vectors, expected, rtol=1e-4, atol=1e-5)
