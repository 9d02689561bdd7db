from __future__ import annotations

import statistics

import pytest
import torch

from vactk.evaluate.retrieval_metrics import (
    dual_softmax,
    recall_and_ranks,
    retrieval_metrics,
    text_to_video_ranks,
    video_to_text_ranks,
)


def slow_ranks(similarity, owners):
    """By sorting lists, the worst place among equals; of a video's captions the best placed."""
    rows = similarity.tolist()
    t2v = []
    for row, owner in zip(rows, owners, strict=True):
        others = [score for video, score in enumerate(row) if video != owner]
        t2v.append(1 + len([score for score in others if score >= row[owner]]))
    v2t = []
    for video in range(similarity.shape[1]):
        places = []
        for text, owner in enumerate(owners):
            if owner == video:
                others = [rows[t][video] for t, o in enumerate(owners) if o != video]
                places.append(1 + len([score for score in others if score >= rows[text][video]]))
        if places:
            v2t.append(min(places))
    return t2v, v2t


@pytest.mark.parametrize("seed", range(6))
def test_ranks_equal_a_slow_computation_with_ties_and_several_captions(seed):
    generator = torch.Generator().manual_seed(seed)
    num_videos = 12
    counts = torch.randint(0, 4, (num_videos,), generator=generator).tolist()
    counts[0] = max(1, counts[0])
    owners = [video for video, count in enumerate(counts) for _ in range(count)]
    similarity = torch.randint(0, 4, (len(owners), num_videos), generator=generator) / 4  # many ties
    t2v, v2t = slow_ranks(similarity, owners)
    assert text_to_video_ranks(similarity, torch.tensor(owners)).tolist() == t2v
    found = video_to_text_ranks(similarity, torch.tensor(owners))
    assert found[found > 0].tolist() == v2t
    texts, videos = retrieval_metrics(similarity, similarity, torch.tensor(owners))
    for result, ranks in ((texts, t2v), (videos, v2t)):
        assert result.median_rank == statistics.median(ranks)
        assert result.mean_rank == pytest.approx(statistics.fmean(ranks))
        for k in (1, 5, 10):
            assert result.recall[k] == pytest.approx(100 * sum(rank <= k for rank in ranks) / len(ranks))
        assert result.num_queries == len(ranks)


def test_a_model_that_cannot_tell_anything_apart_finds_nothing():
    texts, videos = retrieval_metrics(torch.zeros(20, 20), torch.zeros(20, 20), torch.arange(20))
    assert texts.to_json() == videos.to_json()
    assert texts.recall == {1: 0.0, 5: 0.0, 10: 0.0}
    assert texts.mean_rank == 20


def test_unread_videos_rank_last_with_their_captions():
    texts, videos = retrieval_metrics(
        torch.eye(3), torch.eye(3), torch.arange(3), unread_texts=2, unread_videos=1
    )
    assert texts.recall[1] == pytest.approx(60)
    assert texts.mean_rank == pytest.approx((3 * 1 + 2 * 4) / 5)
    assert videos.recall[1] == pytest.approx(75)
    assert videos.mean_rank == pytest.approx((3 * 1 + 5) / 4)


def test_dual_softmax_lets_queries_compete():
    """Two texts want video 0; the one that nothing else fits keeps it."""
    logits = torch.tensor([[5.0, 4.9], [6.0, 0.0]])
    assert text_to_video_ranks(logits, torch.tensor([1, 0])).tolist() == [2, 1]
    t2v, v2t = dual_softmax(logits)
    assert text_to_video_ranks(t2v, torch.tensor([1, 0])).tolist() == [1, 1]
    torch.testing.assert_close(v2t, logits * torch.tensor([[5.0, 4.9], [6.0, 0.0]]).softmax(1))


def test_no_queries_give_no_number():
    assert str(recall_and_ranks(torch.empty(0, dtype=torch.long)).mean_rank) == "nan"
