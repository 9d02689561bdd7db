"""Retrieval metrics of similarities against CLIP4Clip's."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from vactk.retrieval.ranks import retrieval_metrics, summarise, text_to_video_ranks, video_to_text_ranks

pytestmark = pytest.mark.fixtures("retrieval_clip4clip_metrics")


def sets(case):
    """(name, similarity (N texts, V), owners (N,), recorded metrics) of each set."""
    recorded = json.loads((case.folder / "metrics.json").read_text())
    tensors = load_file(case.folder / "io.safetensors")
    for name, metrics in recorded.items():
        similarity = tensors[f"{name}/sim"]
        owners = tensors.get(f"{name}/owner", torch.arange(len(similarity)))
        yield name, similarity, owners, metrics


def check(found, recorded, name):
    assert found.recall == pytest.approx({k: recorded[f"R{k}"] for k in (1, 5, 10)}, abs=1e-4), name
    assert found.mean_rank == pytest.approx(recorded["MeanR"], abs=1e-9), name


def test_both_directions_are_clip4clips(case):
    """Where a video has one caption, and nothing ties, every number is theirs."""
    for name, similarity, owners, recorded in sets(case):
        t2v, v2t = retrieval_metrics(similarity, similarity, owners)
        one_caption = len(owners) == similarity.shape[1]
        if recorded["t2v"]["n_ranks"] == len(owners):
            check(t2v, recorded["t2v"], name)
        if one_caption and recorded["v2t"]["n_ranks"] == len(owners):
            assert t2v.median_rank == recorded["t2v"]["MedianR"], name
            check(v2t, recorded["v2t"], name)
            assert v2t.median_rank == recorded["v2t"]["MedianR"], name


def test_several_captions_are_ranked_among_texts_and_by_clip4clip_among_videos(case):
    """CLIP4Clip gives every video its best caption first, so its ranks are never worse than vactk's."""
    for name, similarity, owners, recorded in sets(case):
        num_videos = similarity.shape[1]
        if len(owners) == num_videos:
            continue
        best = torch.stack([similarity[owners == video].amax(0) for video in range(num_videos)], 1)
        among_videos = text_to_video_ranks(best, torch.arange(num_videos))
        check(summarise(among_videos), recorded["v2t"], name)
        assert (video_to_text_ranks(similarity, owners) >= among_videos).all(), name
        lower = text_to_video_ranks(
            similarity, owners
        ).median()  # torch's median is the lower of the middle two
        assert lower == recorded["t2v"]["MedianR"], name


def test_ties_count_once_and_against_the_model(case):
    """CLIP4Clip makes each tied place a query of its own, so it has more ranks than queries."""
    for name, similarity, owners, recorded in sets(case):
        found = dict(zip(("t2v", "v2t"), retrieval_metrics(similarity, similarity, owners), strict=True))
        for direction, first in (("t2v", similarity), ("v2t", similarity.T)):
            if len(owners) == similarity.shape[1] < recorded[direction]["n_ranks"]:
                assert found[direction].num_queries == len(owners), name
                own = first.gather(1, owners[:, None])
                assert found[direction] == summarise((first >= own).sum(1)), name
