"""Mixtures of checkpoints measured on videos: a sweep of alphas, and greedy soup."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vactk.checkpoints.merge import MergePlan, set_weights
from vactk.data.config import DataConfig
from vactk.data.records import VideoSet
from vactk.distributed import Accelerator
from vactk.evaluate.scoring import Variant, score_variants
from vactk.evaluate.zero_shot import Evaluation, class_scorers, evaluate
from vactk.models.video_model import VideoModel
from vactk.progress import Progress
from vactk.weights.arithmetic import Coefficients, MergeTerm, mixed_tensor
from vactk.weights.streaming import DictTensors


@dataclass(frozen=True)
class EvalSettings:
    """How videos are read and compared with classes."""

    data: DataConfig
    templates: tuple[str, ...]
    batch_size: int
    accelerator: Accelerator
    progress: Callable[[str], Progress]  # what is being measured -> a bar


@dataclass(frozen=True)
class Point:
    """One alpha of a sweep."""

    alpha: float
    evaluations: Mapping[str, Evaluation]  # by the name of what was measured

    @property
    def trade_off(self) -> float:
        """The harmonic mean of the top-1 accuracies, 0 where one of them is."""
        values = [evaluation.accuracy["similarity"]["top1"] for evaluation in self.evaluations.values()]
        return 0.0 if min(values) <= 0 else len(values) / math.fsum(1 / value for value in values)


def sweep(
    model: VideoModel,
    mixture: MergePlan,
    alphas: Sequence[float],
    coefficients: Callable[[float], Coefficients],
    sets: Mapping[str, VideoSet],
    protocol: EvalSettings,
) -> list[Point]:
    """Every alpha measured on every set, each video read once. The sides' tensors are held in memory.

    `model` has the mixture's architecture, on the accelerator's device; its weights are written over.
    """
    held = in_memory(mixture)

    def prepare(alpha: float) -> Callable[[], None]:
        weights = held.coefficients(coefficients(alpha))
        return lambda: set_weights(
            model, {name: mixed_tensor(held.terms, name, weights) for name in held.names}
        )

    found: dict[str, list[Evaluation]] = {}
    for name, videos in sets.items():
        variants = []
        for alpha in alphas:
            apply = prepare(alpha)
            apply()
            scorers = class_scorers(model, videos, protocol.templates, protocol.accelerator.device)
            variants.append(Variant(apply, scorers))
        found[name] = _measure(model, videos, variants, protocol, name)
    return [
        Point(alpha, {name: evaluations[i] for name, evaluations in found.items()})
        for i, alpha in enumerate(alphas)
    ]


def greedy_soup(
    model: VideoModel, mixture: MergePlan, videos: VideoSet, protocol: EvalSettings
) -> tuple[list[int], list[dict[str, Any]]]:
    """Which parts make the soup, best first, and what was tried (Wortsman et al., ICML 2022, recipe 1).

    Parts join in the order of their own top-1, as long as the average with them is not worse.
    """
    count = len(mixture.terms)

    def top1(members: Sequence[int], title: str) -> float:
        weights = [1 / len(members) if i in members else 0.0 for i in range(count)]
        chosen = mixture.coefficients(lambda _: weights)
        set_weights(model, {name: mixed_tensor(mixture.terms, name, chosen) for name in mixture.names})
        scorers = class_scorers(model, videos, protocol.templates, protocol.accelerator.device)
        (evaluation,) = _measure(model, videos, [Variant(lambda: None, scorers)], protocol, title)
        return evaluation.accuracy["similarity"]["top1"]

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
    """The point with the best trade-off; of equal ones the first."""
    return max(points, key=lambda point: point.trade_off)


def in_memory(mixture: MergePlan) -> MergePlan:
    """The same mixture with all tensors read."""
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


def _measure(
    model: VideoModel, videos: VideoSet, variants: Sequence[Variant], protocol: EvalSettings, title: str
) -> list[Evaluation]:
    scores = score_variants(
        model,
        videos,
        variants,
        protocol.data,
        protocol.accelerator,
        batch_size=protocol.batch_size,
        progress=protocol.progress(f"{videos.name}/{videos.split}: {title}"),
    )
    return [evaluate(videos, found) for found in scores]
