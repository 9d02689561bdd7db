"""Measure retrieval: captions that look for their videos, and videos for their captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vactk.data.config import DataConfig
from vactk.data.records import VideoSet
from vactk.data.video_dataset import ReadError
from vactk.distributed import Accelerator
from vactk.errors import VactkError
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.embedding import embed_texts
from vactk.evaluate.protocol_splits import content_hash
from vactk.evaluate.results import Unreadable, errors_json
from vactk.evaluate.retrieval_metrics import RetrievalMetrics, dual_softmax, retrieval_metrics
from vactk.evaluate.scoring import Scores, Variant, score_variants
from vactk.evaluate.zero_shot import check_missing
from vactk.models.video_clip import VideoFeatures, pool_frames
from vactk.models.video_model import VideoModel
from vactk.progress import Progress


def retrieval_data(data: DataConfig, *, views: int) -> DataConfig:
    """Return how retrieval reads videos: evenly spread frames, in CLIP's own preprocessing."""
    return DataConfig(
        num_frames=data.num_frames,
        views=views,
        decoder=data.decoder,
        workers=data.workers,
        timeout_s=data.timeout_s,
    )


@dataclass(frozen=True)
class RetrievalResult:
    """How well texts and videos find each other, and what exactly that was measured on."""

    name: str  # of the protocol, or of the dataset and its split
    hash: str  # of the videos and their captions
    num_videos: int
    num_texts: int
    text_to_video: RetrievalMetrics
    video_to_text: RetrievalMetrics
    dual_softmax: bool
    unreadable: Unreadable
    failed: list[ReadError]
    partial: list[ReadError]  # read as far as they go
    missing: int  # videos that are not on disk
    texts_cut: int  # captions longer than the text tower reads

    def to_json(self) -> dict[str, Any]:
        """Return the keys that scripts rely on."""
        return {
            "protocol": self.name,
            "hash": self.hash,
            "num_videos": self.num_videos,
            "num_texts": self.num_texts,
            "t2v": self.text_to_video.to_json(),
            "v2t": self.video_to_text.to_json(),
            "dual_softmax": self.dual_softmax,
            "unreadable": self.unreadable,
            "missing": self.missing,
            "texts_cut": self.texts_cut,
            "failed": errors_json(self.failed),
            "partial": errors_json(self.partial),
        }


def evaluate_retrieval(
    model: VideoModel,
    videos: VideoSet,
    config: EvalConfig,
    accelerator: Accelerator,
    *,
    name: str = "",
    dual: bool = False,
    unreadable: Unreadable = "wrong",
    max_failed: float = 1.0,
    progress: Progress | None = None,
) -> RetrievalResult:
    """Return recalls and ranks in both directions. Every caption of a video is a text of its own.

    Videos that are missing or cannot be read rank last with their captions, or are left out of everything with
    `unreadable="skip"`. `dual`: by `dual_softmax`, which uses all queries at once. Raises VactkError where there
    are no captions, or too few videos.
    """
    if not any(record.captions for record in videos.records):
        raise VactkError(f"{videos.name}, {videos.split}, has no captions to measure retrieval with")
    check_missing(videos, max_failed)
    present = videos.present()
    scores = _embed(model, present, config, accelerator, max_failed, progress)
    num_unread = len(videos.records) - len(scores.indices)
    if num_unread > max_failed * len(videos.records) or not len(scores.indices):
        raise VactkError(
            f"{num_unread:,} of {len(videos.records):,} videos could not be read, more than --max-failed allows"
        )
    read = [present.records[index].captions for index in scores.indices.tolist()]
    similarity, owners, cut = _similarity(model, videos.name, read, scores, accelerator)
    wrong = unreadable == "wrong"
    counts = [len(record.captions) for record in videos.records]
    unread_texts = sum(counts) - sum(map(len, read)) if wrong else 0
    unread_videos = sum(map(bool, counts)) - sum(map(bool, read)) if wrong else 0
    logits = similarity * float(model.video_clip.logit_scale.detach())
    t2v, v2t = dual_softmax(logits) if dual else (similarity, similarity)
    text_to_video, video_to_text = retrieval_metrics(
        t2v, v2t, owners, unread_texts=unread_texts, unread_videos=unread_videos
    )
    return RetrievalResult(
        name=name or f"{videos.name}/{videos.split}",
        hash=content_hash(videos.without_labels()),
        num_videos=len(videos.records) if wrong else len(read),
        num_texts=text_to_video.num_queries,
        text_to_video=text_to_video,
        video_to_text=video_to_text,
        dual_softmax=dual,
        unreadable=unreadable,
        failed=scores.failures,
        partial=scores.partial,
        missing=len(videos.missing),
        texts_cut=cut,
    )


def _embed(
    model: VideoModel,
    videos: VideoSet,
    config: EvalConfig,
    accelerator: Accelerator,
    max_failed: float,
    progress: Progress | None,
) -> Scores:
    """Embed the videos, as `embed_views` does; the scores called "embedding" are means over views."""

    def embed(features: VideoFeatures) -> Tensor:
        return F.normalize(pool_frames(features.frames.float(), model.config.similarity), dim=-1)

    variant = Variant(lambda: None, {}, {"embedding": embed})
    (scores,) = score_variants(
        model, videos, [variant], config, accelerator, max_failed=max_failed, progress=progress
    )
    return scores


def _similarity(
    model: VideoModel,
    name: str,
    captions: list[tuple[str, ...]],
    scores: Scores,
    accelerator: Accelerator,
) -> tuple[Tensor, Tensor, int]:
    """Return cosines (N texts, V videos), each text's video (N,), and how many texts were cut."""
    texts = [text for own in captions for text in own]
    owners = torch.tensor([number for number, own in enumerate(captions) for _ in own], dtype=torch.long)
    if len(texts) > 1 and len(set(texts)) == 1:
        raise VactkError(f"all {len(texts):,} captions of {name} are the same, '{texts[0]:.60}'")
    embedded = embed_texts(model, texts, accelerator.device)
    vectors = F.normalize(scores.similarities["embedding"], dim=-1)
    for what, found in (("text", embedded.vectors), ("video", vectors)):
        if not torch.isfinite(found).all():
            raise VactkError(f"the model's {what} embeddings are not finite: its weights are damaged")
    return embedded.vectors @ vectors.T, owners, len(embedded.cut)
