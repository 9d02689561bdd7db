"""Measures retrieval: captions that look for their videos, and videos for their captions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vactk.data.records import VideoSet
from vactk.distributed import Accelerator
from vactk.errors import VactkError
from vactk.evaluate.embedding import embed_texts
from vactk.evaluate.protocol_splits import content_hash
from vactk.evaluate.results import Unreadable
from vactk.evaluate.retrieval_metrics import RetrievalMetrics, dual_softmax, retrieval_metrics
from vactk.evaluate.zero_shot import check_missing
from vactk.models.video_model import VideoModel
from vactk.progress import Progress
from vactk.retrieval.index.file_identity import FileState
from vactk.retrieval.index.store import IndexItem, VideoEmbeddings
from vactk.retrieval.index.update import EmbeddingConfig, embed_videos


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
    failed: dict[str, str]
    partial: dict[str, str]
    missing: int  # videos that are not on disk
    texts_cut: int  # captions longer than the text tower reads

    def to_json(self) -> dict[str, Any]:
        """The keys that scripts rely on."""
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
            "failed": [{"video": video, "error": why} for video, why in self.failed.items()],
            "partial": [{"video": video, "error": why} for video, why in self.partial.items()],
        }


def evaluate_retrieval(
    model: VideoModel,
    videos: VideoSet,
    reading: EmbeddingConfig,
    accelerator: Accelerator,
    *,
    name: str = "",
    batch_size: int,
    dual: bool = False,
    unreadable: Unreadable = "wrong",
    max_failed: float = 1.0,
    progress: Progress | None = None,
) -> RetrievalResult:
    """Recalls and ranks in both directions. Every caption of a video is a text of its own.

    Videos that are missing or cannot be read rank last with their captions, or are left out of everything with
    `unreadable="skip"`. `dual`: by `dual_softmax`, which uses all queries at once. Raises VactkError where there
    are no captions, or too few videos.
    """
    if not any(record.captions for record in videos.records):
        raise VactkError(f"{videos.name}, {videos.split}, has no captions to measure retrieval with")
    check_missing(videos, max_failed)
    read, bad = _read(model, videos, reading, accelerator, batch_size, progress)
    failed = {video.item.key: video.problem for video in bad}
    if len(videos.missing) + len(failed) > max_failed * len(videos.records) or not read:
        raise VactkError(
            f"{len(failed):,} of {len(videos.records):,} videos could not be read, more than --max-failed allows"
        )
    similarity, owners, cut = _similarity(model, videos, read, accelerator)
    own = {place: None for place in range(len(videos.records)) if place not in read}
    counts = [len(videos.records[place].captions) for place in own]
    wrong = unreadable == "wrong"
    logits = similarity * float(model.video_clip.logit_scale.detach())
    t2v, v2t = dual_softmax(logits) if dual else (similarity, similarity)
    text_to_video, video_to_text = retrieval_metrics(
        t2v,
        v2t,
        owners,
        unread_texts=sum(counts) if wrong else 0,
        unread_videos=sum(map(bool, counts)) if wrong else 0,
    )
    unlabelled = tuple(dataclasses.replace(record, label=None) for record in videos.records)
    content = dataclasses.replace(videos, classes=(), words=(), records=unlabelled)
    return RetrievalResult(
        name=name or f"{videos.name}/{videos.split}",
        hash=content_hash(content),
        num_videos=len(videos.records) if wrong else len(read),
        num_texts=text_to_video.num_queries,
        text_to_video=text_to_video,
        video_to_text=video_to_text,
        dual_softmax=dual,
        unreadable=unreadable,
        failed=failed,
        partial={video.item.key: video.warning for video in read.values() if video.warning},
        missing=len(videos.missing),
        texts_cut=cut,
    )


def _read(
    model: VideoModel,
    videos: VideoSet,
    reading: EmbeddingConfig,
    accelerator: Accelerator,
    batch_size: int,
    progress: Progress | None,
) -> tuple[dict[int, VideoEmbeddings], list[VideoEmbeddings]]:
    """The videos that could be read, by their place in the records and in that order; and the others."""
    places = [place for place in range(len(videos.records)) if place not in videos.missing]
    nothing = FileState(0, 0)
    items = [IndexItem(record=videos.records[place], state=nothing) for place in places]
    read: dict[int, VideoEmbeddings] = {}
    bad = []
    done = iter(places)
    for group in embed_videos(model, items, reading, accelerator, batch_size=batch_size):
        for video in group:
            place = next(done)
            if video.problem:
                bad.append(video)
            else:
                read[place] = video
        if progress is not None:
            progress(len(read) + len(bad), len(items))
    return read, bad


def _similarity(
    model: VideoModel, videos: VideoSet, read: dict[int, VideoEmbeddings], accelerator: Accelerator
) -> tuple[Tensor, Tensor, int]:
    """Cosines (N texts, V videos), each text's video (N,), and how many texts were cut."""
    captions = [videos.records[place].captions for place in read]
    texts = [text for own in captions for text in own]
    owners = torch.tensor([number for number, own in enumerate(captions) for _ in own], dtype=torch.long)
    if len(texts) > 1 and len(set(texts)) == 1:
        raise VactkError(f"all {len(texts):,} captions of {videos.name} are the same, '{texts[0]:.60}'")
    embedded = embed_texts(model, texts, accelerator.device)
    vectors = torch.cat([video.vectors for video in read.values() if video.vectors is not None])
    if not torch.isfinite(embedded.vectors).all():
        raise VactkError("the model's text embeddings are not finite: its weights are damaged")
    return embedded.vectors @ vectors.T, owners, len(embedded.cut)
