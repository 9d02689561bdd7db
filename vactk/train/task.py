"""What is learnt from a batch: the model, its heads, and their losses by name."""

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

DRAWS_STEPS = 2**24  # different values of a float32 in [0, 1) as torch draws them


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What is trained, and on which losses. A weight of 0 turns a loss off, and its work and its head with it."""

    towers: tuple[Literal["vision", "text", "scale"], ...] = ()  # of CLIP's own; "scale" is its temperature
    contrastive: float = 0.5  # videos against the texts of the batch
    cross_modal: float = 0.5  # videos against the texts of all classes
    masked_words: float = 0.1  # masked words of a prompt, guessed from the video
    visual: float = 1.0  # class head on the vision tower
    descriptions: float = 1.0  # videos against descriptions of them, where the recipe names a file of those
    contrastive_text: Literal["clean", "masked"] = (
        "clean"  # published: masked, by code that then masks nothing
    )
    gather: bool = (
        True  # contrast with the videos of all processes; False: of one's own, as M2-CLIP's release
    )
    doubled_softmax: bool = False  # cross_modal as in M2-CLIP's published code, which takes the softmax twice
    mask_rate: float = 0.2  # share of a prompt's words that is masked
    head_dropout: float = 0.5  # before the class head

    def __post_init__(self) -> None:
        weights = self.weights.values()
        if min(weights) < 0 or max(weights) == 0:
            raise VactkError("the losses' weights must be at least 0, and one of them above")
        if not 0 <= self.head_dropout < 1:
            raise VactkError(f"head_dropout must be at least 0 and below 1, got {self.head_dropout}")
        if not 0 < self.mask_rate <= 1:
            raise VactkError(f"mask_rate must be above 0 and at most 1, got {self.mask_rate}")

    @property
    def weights(self) -> dict[str, float]:
        """The factor of each loss in the sum."""
        return {
            "contrastive": self.contrastive,
            "cross_modal": self.cross_modal,
            "masked_words": self.masked_words,
            "visual": self.visual,
        }


class Outputs(NamedTuple):
    """What the losses read; None where no loss asks for it."""

    video: Tensor  # (B, E), as `pool_frames` makes it
    pooled: Tensor  # (B, D)
    labels: Tensor  # (B,) int64
    seeds: list[int]  # of what is random about each video
    sample_text: Tensor | None  # (B, E), unit norm: of the videos' own classes
    class_text: Tensor | None  # (C, E), unit norm
    word_logits: Tensor | None  # (B, L, V), for the masked prompts
    word_labels: Tensor | None  # (B, L) int64
    described: Described | None


class VideoTextTask(nn.Module):
    """Losses of a batch of labelled videos."""

    def __init__(
        self,
        model: VideoModel,
        config: TaskConfig,
        prompts: ClassPrompts,
        masked: MaskedPrompts | None,
        descriptions: DescriptionTexts | None = None,
    ) -> None:
        """`masked` makes the prompts of the masked-word loss, None where that is off; so do `descriptions`."""
        super().__init__()
        self.clip = model.video_clip
        self.class_head = model.class_head
        self.word_head = model.word_head
        self.prompts = prompts
        self.masked = masked
        self.descriptions = descriptions
        self.similarity = model.config.similarity
        self.weights = {name: weight for name, weight in config.weights.items() if weight > 0}
        if descriptions is not None and config.descriptions > 0:
            self.weights["descriptions"] = config.descriptions
        self.gathered = gather if config.gather else _as_it_is
        self.doubled_softmax = config.doubled_softmax
        self.contrastive_text = config.contrastive_text

    def forward(
        self, video: Tensor, labels: Tensor, places: Tensor, draws: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Each loss, and "loss", their weighted sum: scalars.

        video (B, T, 3, H, W), labels (B,) int64, places (B,) int64: where in the records, draws (B,) in
        [0, 1): what is random about each video: its description of several, its masked words, its dropout.
        Where no video of this process could be read, `video` is one blank and B of the others 0: the process
        takes part in all that is gathered, with no rows of its own. A loss that is not gathered is what
        `mean_over_all` gives. Where words are masked, "word_accuracy" (percent) and "num_masked_words" (per
        video) come with the losses.
        """
        draws = torch.rand(len(labels), device=labels.device) if draws is None else draws
        if len(labels):
            outputs = self._outputs(video, labels, places, draws)
        else:
            outputs = without_rows(self._outputs(video, *(x.new_zeros(1) for x in (labels, places, draws))))
        values = {name: LOSSES[name](self, outputs) for name in self.weights}
        total = torch.stack([self.weights[name] * values[name] for name in self.weights]).sum()
        found = {"loss": total, **values}
        if outputs.word_logits is None or outputs.word_labels is None:
            return found
        return {**found, **word_metrics(outputs.word_logits, outputs.word_labels, len(outputs.labels))}

    def _outputs(self, video: Tensor, labels: Tensor, places: Tensor, draws: Tensor) -> Outputs:
        seeds = (draws * DRAWS_STEPS).long().tolist()
        # drawn first: what is read off the labels would later wait for the vision tower
        drawn = None if self.masked is None else self.masked.draw(labels, seeds)
        features = self.clip.video_features(video)
        class_text = sample_text = word_logits = word_labels = None
        contrastive = "contrastive" in self.weights
        masked_contrastive = contrastive and self.contrastive_text == "masked" and self.masked is not None
        if "cross_modal" in self.weights or (contrastive and not masked_contrastive):
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
        described = None
        if self.descriptions is not None and "descriptions" in self.weights:
            described = self.descriptions(self.clip.text, places, draws)
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
        )


def without_rows(outputs: Outputs) -> Outputs:
    """The same work, and so the same gradients to wait for, without any video."""
    text, words, described = outputs.sample_text, outputs.word_labels, outputs.described
    return outputs._replace(
        video=outputs.video[:0],
        pooled=outputs.pooled[:0],
        labels=outputs.labels[:0],
        seeds=[],
        sample_text=None if text is None else text[:0],
        word_labels=None if words is None else torch.full_like(words, IGNORED),
        described=None if described is None else Described(described.text[:0], described.known[:0]),
    )


@torch.no_grad()
def word_metrics(logits: Tensor, labels: Tensor, num_videos: int) -> dict[str, Tensor]:
    """How many of the masked tokens got the right word, in percent, and how many were masked per video."""
    masked = labels >= 0
    right = (logits.argmax(dim=-1) == labels) & masked
    return {
        "word_accuracy": distributed_mean(100 * right.sum(), masked.sum()),
        "num_masked_words": distributed_mean(masked.sum(), torch.tensor(num_videos, device=labels.device)),
    }


def choose_trained(model: VideoModel, trained: tuple[str, ...]) -> None:
    """Set what is trained: all that was added, and CLIP's own parts that `trained` names.

    Not what no output depends on: many processes wait for every gradient.
    """
    for name, parameter in model.module_dict().named_parameters():
        parameter.requires_grad_(clip_tower_of(name) in (None, *trained))
    for parameter in model.video_clip.unused_parameters():
        parameter.requires_grad_(False)


def _as_it_is(x: Tensor) -> Tensor:
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
    assert outputs.described is not None
    parts = (outputs.video, outputs.described.text, outputs.described.known)
    video, text, known = (task.gathered(part) for part in parts)
    return clip_loss(video[known], text[known], task.clip.logit_scale)


LOSSES: dict[str, Callable[[VideoTextTask, Outputs], Tensor]] = {
    "contrastive": _contrastive,
    "cross_modal": _cross_modal,
    "masked_words": _masked_words,
    "visual": _visual,
    "descriptions": _descriptions,
}
