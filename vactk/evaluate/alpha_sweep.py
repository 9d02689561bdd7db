"""Evaluate merged checkpoints: a sweep of alphas, and greedy soup."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vactk.checkpoints.merge import MergePlan, set_weights
from vactk.data.records import VideoSet
from vactk.distributed import Accelerator
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.protocol_splits import split_data
from vactk.evaluate.results import EvalResult
from vactk.evaluate.scoring import score_variants
from vactk.evaluate.zero_shot import split_variant, summarize
from vactk.models.video_model import VideoModel
from vactk.progress import Progress
from vactk.weights.arithmetic import Coefficients, MergeTerm, mixed_tensor
from vactk.weights.streaming import DictTensors


@dataclass(frozen=True)
class EvalSettings:
    """How every merged model is evaluated."""

    config: EvalConfig
    accelerator: Accelerator
    progress: Callable[[str], Progress]  # title -> a progress bar


@dataclass(frozen=True)
class Point:
    """One alpha of a sweep."""

    alpha: float
    evaluations: Mapping[str, EvalResult]  # by the name of the set

    @property
    def trade_off(self) -> float:
        """The harmonic mean of the top-1 accuracies; 0 if one of them is 0."""
        values = [evaluation.accuracy["similarity"]["top1"] for evaluation in self.evaluations.values()]
        return 0.0 if min(values) <= 0 else len(values) / math.fsum(1 / value for value in values)


def sweep(
    model: VideoModel,
    mixture: MergePlan,
    alphas: Sequence[float],
    coefficients: Callable[[float], Coefficients],
    sets: Mapping[str, VideoSet],
    settings: EvalSettings,
) -> list[Point]:
    """Evaluate every alpha on every set, reading each video once. The inputs' tensors are held in memory.

    `model` has the mixture's architecture, on the accelerator's device; its weights are overwritten.
    """
    held = in_memory(mixture)

    def prepare(alpha: float) -> Callable[[], None]:
        weights = held.coefficients(coefficients(alpha))
        return lambda: set_weights(
            model, {name: mixed_tensor(held.terms, name, weights) for name in held.names}
        )

    found: dict[str, list[EvalResult]] = {}
    for name, videos in sets.items():
        found[name] = _evaluate(model, videos, [prepare(alpha) for alpha in alphas], settings, name)
    return [
        Point(alpha, {name: evaluations[i] for name, evaluations in found.items()})
        for i, alpha in enumerate(alphas)
    ]


def greedy_soup(
    model: VideoModel, mixture: MergePlan, videos: VideoSet, settings: EvalSettings
) -> tuple[list[int], list[dict[str, Any]]]:
    """Return the indices of the soup's members, best first, and every trial (Wortsman et al., ICML 2022, recipe 1).

    Checkpoints join in the order of their own top-1, as long as the average with them is not worse.
    """
    count = len(mixture.terms)

    def top1(members: Sequence[int], title: str) -> float:
        weights = [1 / len(members) if i in members else 0.0 for i in range(count)]
        chosen = mixture.coefficients(lambda _: weights)
        set_weights(model, {name: mixed_tensor(mixture.terms, name, chosen) for name in mixture.names})
        (result,) = _evaluate(model, videos, [lambda: None], settings, title)
        return result.accuracy["similarity"]["top1"]

    alone = [top1([i], f"{i + 1} of {count} alone") for i in range(count)]
    order = sorted(range(count), key=lambda i: -alone[i])
    members, best = [order[0]], alone[order[0]]
    tried = [{"path": mixture.terms[order[0]].label, "alone": best, "soup": best, "kept": True}]
    for i in order[1:]:
        with_it = top1([*members, i], f"soup of {len(members) + 1}")
        kept = with_it >= best
        tried.append({"path": mixture.terms[i].label, "alone": alone[i], "soup": with_it, "kept": kept})
        if kept:
            members, best = [*members, i], with_it
    return members, tried


def best_point(points: Sequence[Point]) -> Point:
    """Return the first point with the best trade-off."""
    return max(points, key=lambda point: point.trade_off)


def in_memory(mixture: MergePlan) -> MergePlan:
    """Return the same mixture with all tensors read."""
    parts = tuple(
        MergeTerm(
            part.label,
            DictTensors(
                {name: part.source.read(name) for name in mixture.names if name in part.source.entries}
            ),
        )
        for part in mixture.terms
    )
    return MergePlan(parts, mixture.names, mixture.metadata, mixture.notes, mixture.is_plain)


def _evaluate(
    model: VideoModel,
    videos: VideoSet,
    weights: Sequence[Callable[[], None]],
    settings: EvalSettings,
    title: str,
) -> list[EvalResult]:
    """Evaluate the model with each of `weights`, functions that set them."""
    data, variants = split_data(videos), []
    for set_them in weights:
        set_them()
        variant = split_variant(model, data, settings.config, settings.accelerator.device)
        variants.append(variant._replace(prepare=set_them, similarities={}))
    progress = settings.progress(f"{videos.name}/{videos.split}: {title}")
    found = score_variants(model, videos, variants, settings.config, settings.accelerator, progress=progress)
    return [summarize(data, scores) for scores in found]
