from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.retrieval.conftest import reading
from vactk.data.records import Record, VideoSet
from vactk.errors import VactkError
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.retrieval import evaluate_retrieval
from vactk.evaluate.retrieval_metrics import dual_softmax, retrieval_metrics
from vactk.retrieval.index.sources import read_source
from vactk.retrieval.index.update import embed_videos


@pytest.fixture
def videos(folder):
    """Six videos with one to three captions."""
    paths = sorted(folder.rglob("*.mp4"))
    captions = [tuple(f"thing {n} of video {v}" for n in range(1 + v % 3)) for v in range(6)]
    records = tuple(Record(video=p, captions=c) for p, c in zip(paths, captions, strict=True))
    return VideoSet(name="mine", split="all", classes=(), words=(), records=records)


def measured(model, videos, accelerator, **options):
    config = EvalConfig(data=reading().data, batch_size=4)
    return evaluate_retrieval(model, videos, config, accelerator, **options)


@pytest.mark.parametrize("dual", [False, True])
def test_results_are_those_of_embedding_by_hand(model, videos, accelerator, folder, dual):
    items = read_source(str(folder)).items
    read = [v for part in embed_videos(model, items, reading(), accelerator, batch_size=1) for v in part]
    by_path = {video.item.record.video: video.vectors[0] for video in read}
    vectors = torch.stack([by_path[record.video] for record in videos.records])
    texts = [text for record in videos.records for text in record.captions]
    owners = torch.tensor([place for place, record in enumerate(videos.records) for _ in record.captions])
    with torch.no_grad():
        embedded = F.normalize(model.video_clip.backbone.encode_text(model.backbone.tokenize(texts)), dim=-1)
    logits = float(model.video_clip.logit_scale.detach()) * embedded @ vectors.T
    t2v, v2t = dual_softmax(logits) if dual else (logits, logits)
    result = measured(model, videos, accelerator, dual=dual)
    assert (result.text_to_video, result.video_to_text) == retrieval_metrics(t2v, v2t, owners)
    assert result.dual_softmax is dual
    assert (result.num_videos, result.num_texts) == (6, len(texts))
    assert result.to_json()["t2v"].keys() == {"R@1", "R@5", "R@10", "MdR", "MnR", "queries"}


def test_videos_that_cannot_be_read_rank_last_or_are_left_out(model, videos, accelerator, folder):
    broken = folder / "broken.mp4"
    broken.write_bytes(b"not a video")
    gone = folder / "gone.mp4"
    more = (Record(video=broken, captions=("a", "b")), Record(video=gone, captions=("c",)))
    worse = dataclasses.replace(videos, records=videos.records + more, missing=frozenset({7}))
    wrong = measured(model, worse, accelerator)
    assert (wrong.num_videos, wrong.num_texts, wrong.missing) == (8, 15, 1)
    assert [failure.video for failure in wrong.failed] == [str(broken)]
    skipped = measured(model, worse, accelerator, unreadable="skip")
    assert (skipped.num_videos, skipped.num_texts) == (6, 12)
    alone = measured(model, videos, accelerator)
    assert skipped.text_to_video == alone.text_to_video
    found = alone.text_to_video.recall[1] * 12 / 100
    assert wrong.text_to_video.recall[1] == pytest.approx(100 * found / 15)
    assert wrong.text_to_video.mean_rank > alone.text_to_video.mean_rank
    with pytest.raises(VactkError, match="--max-failed"):
        measured(model, worse, accelerator, max_failed=0.2)


def test_captions_are_needed_and_are_a_part_of_the_hash(model, videos, accelerator):
    bare = tuple(dataclasses.replace(record, captions=()) for record in videos.records)
    with pytest.raises(VactkError, match="has no captions"):
        measured(model, dataclasses.replace(videos, records=bare), accelerator)
    same = tuple(dataclasses.replace(record, captions=("a video",)) for record in videos.records)
    with pytest.raises(VactkError, match="all 6 captions of mine are the same, 'a video'"):
        measured(model, dataclasses.replace(videos, records=same), accelerator)
    other = dataclasses.replace(videos.records[0], captions=("something else",))
    changed = dataclasses.replace(videos, records=(other, *videos.records[1:]))
    first, second = (measured(model, each, accelerator) for each in (videos, changed))
    assert first.hash != second.hash
    labelled = dataclasses.replace(
        videos,
        classes=("x",),
        words=("x",),
        records=tuple(dataclasses.replace(record, label=0) for record in videos.records),
    )
    assert measured(model, labelled, accelerator).hash == first.hash


def test_enormous_captions_are_cut_and_counted(model, videos, accelerator):
    first = dataclasses.replace(videos.records[0], captions=("word " * 200_000,))
    result = measured(model, dataclasses.replace(videos, records=(first, *videos.records[1:])), accelerator)
    assert result.texts_cut == 1
