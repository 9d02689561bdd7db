"""Predict which of some labels videos show."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vactk.data.isolated_read import read_each
from vactk.data.records import Record, VideoSet
from vactk.data.video_dataset import ReadError, released_sampling
from vactk.data.windows import Durations, WindowConfig
from vactk.errors import VactkError
from vactk.evaluate.classifier import check_answer, class_embeddings, class_scorers, cosine_scorer
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.model import settings_of
from vactk.evaluate.results import ClassifierName, errors_json, note_lines
from vactk.evaluate.scoring import Scores, Variant, score_variants
from vactk.evaluate.setup import prepare_model
from vactk.evaluate.timeline import Timelines, WindowScores, make_timeline, unrelated_phrases
from vactk.evaluate.windows import EmbeddedWindows, embed_windows
from vactk.evaluate.zero_shot import ensemble
from vactk.models.video_model import VideoModel
from vactk.progress import Progress
from vactk.text.templates import as_words


@dataclass(frozen=True)
class LabelScore:
    """How well a label fits a video."""

    label: str
    probability: float  # over all labels
    similarity: float  # cosine of the video's and the label's embeddings, -1 to 1


@dataclass(frozen=True)
class Prediction:
    """The labels of a video, the most probable first."""

    video: Path
    labels: tuple[LabelScore, ...]

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.labels[0].label

    @property
    def probability(self) -> float:
        """The probability of that label."""
        return self.labels[0].probability

    @property
    def similarity(self) -> float:
        """The cosine similarity of that label."""
        return self.labels[0].similarity


@dataclass(frozen=True)
class Predictions(Sequence[Prediction]):
    """A prediction for every video that could be read, in the order given; the others are in `failures`."""

    predictions: tuple[Prediction, ...]
    failures: tuple[ReadError, ...]
    partial: tuple[ReadError, ...]  # predicted from the frames that could be read
    notes: dict[str, int]  # choices made in sampling frames, and for how many videos

    def to_json(self, top: int | None = None) -> dict[str, Any]:
        """Return the keys that scripts rely on, with the `top` best labels of each video, by default all."""
        predictions = [
            {"video": str(found.video), "labels": [dataclasses.asdict(label) for label in found.labels[:top]]}
            for found in self.predictions
        ]
        return {
            "predictions": predictions,
            "top": top,
            "failed": errors_json(self.failures),
            "partial": errors_json(self.partial),
            "notes": note_lines(self.notes),
        }

    def __len__(self) -> int:
        return len(self.predictions)

    def __getitem__(self, index: int) -> Prediction:  # type: ignore[override]
        return self.predictions[index]

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)


class Predictor:
    """Classify videos by labels that the model need never have been trained on.

    `Predictor(model, ["juggling", "waving"]).predict("clip.mp4")[0].label`, or `.segments("long.mp4", window=4)`
    """

    def __init__(
        self,
        model: VideoModel,
        labels: Iterable[str] | None = None,
        *,
        templates: str | None = None,
        by: ClassifierName = "similarity",
        config: EvalConfig | None = None,
    ) -> None:
        """Embed the labels with the weights that the model has now, and move it to the configured device.

        `labels`: by default the classes that the model was trained on. `templates`: a named set of sentences
        around labels, or a sentence with {}. `by`: what answers, see `vactk zeroshot --by`. `config`: by default
        the model's own. Raises VactkError for labels that cannot be told apart, and those `by` cannot answer for.
        """
        config = config or settings_of(model)
        self.config = config if templates is None else dataclasses.replace(config, templates=templates)
        self.model = model
        self.by = by
        self.labels = _labels(model, labels)
        self.words = tuple(as_words(label) for label in self.labels)
        self._videos([])  # which checks the labels
        chosen = range(len(self.labels))
        check_answer(by, model.heads, self.labels, chosen)
        self._accelerator = prepare_model(model, self.config)
        self._embeddings = self._embed(self.words)
        scorers = class_scorers(model, self.labels, self._embeddings, chosen)
        self._variant = Variant(lambda: None, scorers, {"cosine": cosine_scorer(model, self._embeddings)})

    def predict(
        self, videos: str | Path | Iterable[str | Path], *, progress: Progress | None = None
    ) -> Predictions:
        """Classify video files. Files that cannot be read are among the result's `failures`."""
        paths = _paths(videos)
        (scores,) = score_variants(
            self.model,
            self._videos(paths),
            [self._variant],
            self.config,
            self._accelerator,
            progress=progress,
        )
        predictions = tuple(self._predictions(paths, scores))
        return Predictions(predictions, tuple(scores.failures), tuple(scores.partial), scores.notes)

    def segments(
        self,
        videos: str | Path | Iterable[str | Path],
        *,
        window: float,
        stride: float | None = None,
        multi_label: bool = False,
        threshold: float | None = None,
        progress: Progress | None = None,
    ) -> Timelines:
        """Say what videos show when, by windows of `window` seconds every `stride`, by default a quarter of that.

        `multi_label`: any number of labels at a time. `threshold`: cosine similarity that a label must exceed; by
        default that of the unrelated phrase which fits the window best. See `vactk.evaluate.timeline` for how
        windows become segments. Files that cannot be read are among the result's `failures`.
        """
        if self.by != "similarity":
            raise VactkError(f"windows are answered for by similarity, not by '{self.by}'")
        windows = choose_windows(window, stride)
        paths = _paths(videos)
        phrases = unrelated_phrases(self.words) if threshold is None else ()
        unrelated = self._embed(phrases).float().cpu() if phrases else None
        found = Timelines(windows, multi_label, threshold, phrases)
        for video in self._windows(paths, windows, progress):
            path = paths[video.record_index]
            if video.problem:
                found.failures.append(ReadError(video.record_index, str(path), video.problem))
                continue
            if video.warning:
                found.partial.append(ReadError(video.record_index, str(path), video.warning))
            scores = self._window_scores(video, threshold, unrelated)
            found.timelines.append(make_timeline(path, self.labels, scores, multi_label=multi_label))
        return found

    def durations_s(self, videos: Sequence[Path]) -> list[float | None]:
        """Return how long files say that they are; None where they do not."""
        data, durations = self.config.data, Durations([Record(video=video) for video in videos])
        indices = range(len(videos))
        return list(read_each(durations, indices, workers=data.num_workers, timeout_s=data.timeout_s))

    def _window_scores(
        self, video: EmbeddedWindows, threshold: float | None, unrelated: Tensor | None
    ) -> WindowScores:
        levels = torch.full((len(video.vectors),), -1.0 if threshold is None else threshold)
        if unrelated is not None:
            levels = (video.vectors @ unrelated.T).amax(dim=1)
        scale = float(self.model.video_clip.logit_scale.detach())
        cosines = video.vectors @ self._embeddings.float().cpu().T
        return WindowScores(video.spans, cosines, levels, scale)

    def _windows(
        self, paths: Sequence[Path], windows: WindowConfig, progress: Progress | None
    ) -> Iterator[EmbeddedWindows]:
        was_training = self.model.video_clip.training
        self.model.train(False)
        try:
            for videos in embed_windows(
                self.model,
                [Record(video=path) for path in paths],
                windows,
                released_sampling(self.config.data, "files"),
                self._accelerator,
                batch_size=self.config.batch_size,
                progress=progress,
            ):
                yield from videos
        finally:
            self.model.train(was_training)

    def _embed(self, words: tuple[str, ...]) -> Tensor:
        return class_embeddings(self.model, words, self.config.prompts, self._accelerator.device)

    def _predictions(self, paths: Sequence[Path], scores: Scores) -> Iterator[Prediction]:
        probabilities = ensemble(scores.probabilities)[self.by]
        for row, index in enumerate(scores.indices.tolist()):
            order = torch.sort(probabilities[row], descending=True, stable=True).indices.tolist()
            found = zip(probabilities[row].tolist(), scores.similarities["cosine"][row].tolist(), strict=True)
            pairs = list(found)
            yield Prediction(paths[index], tuple(LabelScore(self.labels[i], *pairs[i]) for i in order))

    def _videos(self, paths: Sequence[Path]) -> VideoSet:
        return VideoSet(
            name="files",
            split="all",
            classes=self.labels,
            words=self.words,
            records=tuple(Record(video=path) for path in paths),
        )


def choose_windows(window: float, stride: float | None) -> WindowConfig:
    """Return how videos are cut for `Predictor.segments`. Raises VactkError for values that make no sense."""
    if not window > 0:
        raise VactkError(f"a window lasts more than 0 seconds, got {window:g}")
    return WindowConfig(length_s=window, stride_s=window / 4 if stride is None else stride)


def _paths(videos: str | Path | Iterable[str | Path]) -> list[Path]:
    paths = [Path(path) for path in ([videos] if isinstance(videos, str | Path) else videos)]
    if not paths:
        raise VactkError("the list of videos is empty: pass a path, or a list of paths")
    return paths


def _labels(model: VideoModel, labels: Iterable[str] | None) -> tuple[str, ...]:
    if isinstance(labels, str):
        raise VactkError(f"labels are a list, such as ['juggling', 'waving'], got the text '{labels}'")
    found = model.heads.classes if labels is None else tuple(labels)
    strange = [label for label in found if not isinstance(label, str) or not label.strip()]
    if strange:
        raise VactkError(f"a label is text of at least one letter, got {strange[0]!r}")
    if not found:
        raise VactkError("pass labels: the model was not trained on labelled classes")
    return found
