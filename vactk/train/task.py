"""The training task: a model, its heads, and the table of their losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vactk.distributed import distributed_mean, gather
from vactk.errors import VactkError
from vactk.models.losses import (
    clip_loss,
    contrastive_loss,
    cross_modal_loss,
    masked_word_loss,
    mean_cross_entropy,
)
from vactk.models.video_clip import pool_frames
from vactk.models.video_model import VideoModel, clip_tower_of
from vactk.text.words import IGNORED
from vactk.train.class_prompts import ClassPrompts, MaskedPrompts
from vactk.train.descriptions import Described, DescriptionTexts

MIN_CAPTION_TOKENS = 3  # start, a word, end
DRAWS_STEPS = 2**24  # different values of a float32 in [0, 1) as torch draws them


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Trained towers and weights of losses. A weight of 0 turns a loss off, with its computation and its head."""

    towers: tuple[
        Literal["vision", "text", "scale"], ...
    ] = ()  # trained ones of CLIP; "scale" is its temperature
    contrastive: float = 0.5  # videos against the texts of the batch
    cross_modal: float = 0.5  # videos against the texts of all classes
    masked_words: float = 0.1  # masked words of a prompt, predicted from the video
    visual: float = 1.0  # class head on the vision tower
    descriptions: float = 1.0  # videos against their descriptions, where the recipe names a file of them
    captions: float = (
        0.0  # videos against one of their captions in the dataset, by their embeddings in retrieval
    )
    caption_tokens: int = 0  # length of a caption, start and end included; 0: as long as the text tower reads
    # prompts in the contrastive loss; M2-CLIP publishes masked, by code that then masks nothing
    contrastive_text: Literal["clean", "masked"] = "clean"
    gather: bool = (
        True  # contrast videos of all processes; False: of each process alone, as M2-CLIP's release
    )
    doubled_softmax: bool = False  # cross_modal as in M2-CLIP's published code, which takes the softmax twice
    mask_rate: float = 0.2  # share of a prompt's words that is masked
    head_dropout: float = 0.5  # dropout before the class head

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if weight < 0:
                raise VactkError(f"the weight of a loss must be at least 0, got {name}={weight}")
        if not 0 <= self.head_dropout < 1:
            raise VactkError(f"head_dropout must be at least 0 and below 1, got {self.head_dropout}")
        if not 0 < self.mask_rate <= 1:
            raise VactkError(f"mask_rate must be above 0 and at most 1, got {self.mask_rate}")
        if self.caption_tokens and self.caption_tokens < MIN_CAPTION_TOKENS:
            raise VactkError(
                f"caption_tokens must be 0 or at least {MIN_CAPTION_TOKENS}, got {self.caption_tokens}"
            )

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each loss in the sum."""
        return {name: getattr(self, name) for name in LOSSES}

    @property
    def needs_classes(self) -> bool:
        """Return whether videos need labels: unless captions are trained on, and no loss of classes is."""
        return not self.captions or any(getattr(self, name) for name in CLASS_LOSSES)


class Outputs(NamedTuple):
    """The inputs of the losses; None where no loss needs them."""

    video: Tensor  # (B, E), as `pool_frames` makes it
    pooled: Tensor  # (B, D)
    labels: Tensor  # (B,) int64
    seeds: list[int]  # one per video, of its masked words and its dropout
    sample_text: Tensor | None  # (B, E), unit norm: the prompts of the videos' own classes
    class_text: Tensor | None  # (C, E), unit norm
    word_logits: Tensor | None  # (B, L, V), for the masked prompts
    word_labels: Tensor | None  # (B, L) int64
    described: Described | None
    captioned: Described | None


class VideoTextTask(nn.Module):
    """Losses of a batch of videos, against the texts of their classes or of their own."""

    def __init__(
        self,
        model: VideoModel,
        config: TaskConfig,
        prompts: ClassPrompts | None,
        masked: MaskedPrompts | None,
        descriptions: DescriptionTexts | None = None,
        captions: DescriptionTexts | None = None,
    ) -> None:
        """The last four provide the texts of their losses; None where these are off."""
        super().__init__()
        self.clip = model.video_clip
        self.class_head = model.class_head
        self.word_head = model.word_head
        self.prompts = prompts
        self.masked = masked
        self.descriptions = descriptions
        self.captions = captions
        self.similarity = model.config.similarity
        unavailable = {"descriptions"} if descriptions is None else set()
        weights = {name: weight for name, weight in config.weights.items() if weight > 0}
        self.weights = {name: weight for name, weight in weights.items() if name not in unavailable}
        if not self.weights:
            raise VactkError(f"no loss to train on: one of the weights {', '.join(LOSSES)} must be above 0")
        self.gathered = gather if config.gather else _identity
        self.doubled_softmax = config.doubled_softmax
        self.contrastive_text = config.contrastive_text

    def forward(
        self, video: Tensor, labels: Tensor, places: Tensor, draws: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return each loss, and "loss", their weighted sum: scalars.

        video (B, T, 3, H, W), labels (B,) int64, places (B,) int64: positions in the records, draws (B,) in
        [0, 1): random numbers that choose a video's description, its masked words and its dropout. Where no
        video of this process could be read, `video` is one blank and B of the others 0: the process takes part
        in everything that is gathered, without rows of its own. Losses that are not gathered are contributions
        as in `distributed_mean`. With texts of all classes, "accuracy" (percent) is returned too; with masked
        words, "word_accuracy" (percent) and "num_masked_words" (per video).
        """
        draws = torch.rand(len(labels), device=labels.device) if draws is None else draws
        if len(labels):
            outputs = self._outputs(video, labels, places, draws)
        else:
            outputs = without_rows(self._outputs(video, *(x.new_zeros(1) for x in (labels, places, draws))))
        values = {name: LOSSES[name](self, outputs) for name in self.weights}
        total = torch.stack([self.weights[name] * values[name] for name in self.weights]).sum()
        found = {"loss": total, **values}
        if outputs.class_text is not None:
            found["accuracy"] = class_accuracy(outputs.video, outputs.class_text, outputs.labels)
        if outputs.word_logits is None or outputs.word_labels is None:
            return found
        return {**found, **word_metrics(outputs.word_logits, outputs.word_labels, len(outputs.labels))}

    def _outputs(self, video: Tensor, labels: Tensor, places: Tensor, draws: Tensor) -> Outputs:
        seeds = (draws * DRAWS_STEPS).long().tolist()
        # before the vision tower: reading the labels later would wait for the GPU to finish it
        drawn = None if self.masked is None else self.masked.draw(labels, seeds)
        features = self.clip.video_features(video)
        class_text = sample_text = word_logits = word_labels = None
        contrastive = "contrastive" in self.weights
        masked_contrastive = contrastive and self.contrastive_text == "masked" and self.masked is not None
        if "cross_modal" in self.weights or (contrastive and not masked_contrastive):
            assert self.prompts is not None
            class_text = self.prompts(self.clip.text)
            sample_text = class_text[labels]
        if drawn is not None:
            tokens, word_labels = drawn
            text = self.clip.text
            through = text.hidden(tokens)
            assert self.word_head is not None
            word_logits = self.word_head(text, through.hidden, features.frames)
            if masked_contrastive:
                sample_text = F.normalize(text.pool(through), dim=-1)
        described = captioned = None
        if self.descriptions is not None and "descriptions" in self.weights:
            described = self.descriptions(self.clip.text, places, draws)
        if self.captions is not None and "captions" in self.weights:
            captioned = self.captions(self.clip.text, places, draws)
        return Outputs(
            video=pool_frames(features.frames, self.similarity),
            pooled=features.pooled,
            labels=labels,
            seeds=seeds,
            class_text=class_text,
            sample_text=sample_text,
            word_logits=word_logits,
            word_labels=word_labels,
            described=described,
            captioned=captioned,
        )


def without_rows(outputs: Outputs) -> Outputs:
    """Return outputs without rows that depend on the same parameters, so that all gradients are exchanged."""
    text, words = outputs.sample_text, outputs.word_labels
    return outputs._replace(
        video=outputs.video[:0],
        pooled=outputs.pooled[:0],
        labels=outputs.labels[:0],
        seeds=[],
        sample_text=None if text is None else text[:0],
        word_labels=None if words is None else torch.full_like(words, IGNORED),
        described=_no_texts(outputs.described),
        captioned=_no_texts(outputs.captioned),
    )


def _no_texts(described: Described | None) -> Described | None:
    return None if described is None else Described(described.text[:0], described.known[:0])


@torch.no_grad()
def class_accuracy(video: Tensor, text: Tensor, labels: Tensor) -> Tensor:
    """Return the top-1 accuracy in percent. video (B, E), text (C, E), labels (B,) int64"""
    right = (video @ text.T).argmax(dim=-1) == labels
    return distributed_mean(100 * right.sum(), torch.tensor(len(labels), device=labels.device))


@torch.no_grad()
def word_metrics(logits: Tensor, labels: Tensor, num_videos: int) -> dict[str, Tensor]:
    """Return the accuracy on masked words, in percent, and how many were masked per video."""
    masked = labels >= 0
    right = (logits.argmax(dim=-1) == labels) & masked
    return {
        "word_accuracy": distributed_mean(100 * right.sum(), masked.sum()),
        "num_masked_words": distributed_mean(masked.sum(), torch.tensor(num_videos, device=labels.device)),
    }


def choose_trained(model: VideoModel, trained: tuple[str, ...]) -> None:
    """Make trainable what was added to CLIP, and the towers of CLIP in `trained`.

    Leaves out parameters that no output depends on: several processes would wait for their gradients.
    """
    for name, parameter in model.module_dict().named_parameters():
        parameter.requires_grad_(clip_tower_of(name) in (None, *trained))
    for parameter in model.video_clip.unused_parameters():
        parameter.requires_grad_(False)


def _identity(x: Tensor) -> Tensor:
    return x


def _contrastive(task: VideoTextTask, outputs: Outputs) -> Tensor:
    assert outputs.sample_text is not None
    video, text, labels = (task.gathered(x) for x in (outputs.video, outputs.sample_text, outputs.labels))
    return contrastive_loss(video, text, labels, task.clip.logit_scale)


def _cross_modal(task: VideoTextTask, outputs: Outputs) -> Tensor:
    assert outputs.class_text is not None
    return cross_modal_loss(
        outputs.video,
        outputs.class_text,
        outputs.labels,
        task.clip.logit_scale,
        doubled_softmax=task.doubled_softmax,
    )


def _masked_words(task: VideoTextTask, outputs: Outputs) -> Tensor:
    assert outputs.word_logits is not None
    assert outputs.word_labels is not None
    return masked_word_loss(outputs.word_logits, outputs.word_labels)


def _visual(task: VideoTextTask, outputs: Outputs) -> Tensor:
    assert task.class_head is not None
    return mean_cross_entropy(task.class_head(outputs.pooled, outputs.seeds), outputs.labels)


def _descriptions(task: VideoTextTask, outputs: Outputs) -> Tensor:
    return _pair_loss(task, outputs.video, outputs.described)


def _captions(task: VideoTextTask, outputs: Outputs) -> Tensor:
    return _pair_loss(
        task, F.normalize(outputs.video, dim=-1), outputs.captioned
    )  # as retrieval embeds videos


def _pair_loss(task: VideoTextTask, video: Tensor, described: Described | None) -> Tensor:
    assert described is not None
    video, text, known = (task.gathered(x) for x in (video, *described))
    return clip_loss(video[known], text[known], task.clip.logit_scale)


# A loss needs an entry here, and its weight in TaskConfig under the same name.
LOSSES: dict[str, Callable[[VideoTextTask, Outputs], Tensor]] = {
    "contrastive": _contrastive,
    "cross_modal": _cross_modal,
    "masked_words": _masked_words,
    "visual": _visual,
    "descriptions": _descriptions,
    "captions": _captions,
}
CLASS_LOSSES = ("contrastive", "cross_modal", "masked_words", "visual")  # those that need a video's label
