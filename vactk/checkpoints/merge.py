"""What a mixture of checkpoints is: its architecture, its tensors, and where each side's missing ones come from.

What a side lacks stands at its value in the original CLIP: CLIP's own weights at those of the backbone that the
side names, added ones at their initial values (`initial_values`). Heads, which CLIP has not, are taken from the
sides that have them alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vactk import config as settings
from vactk.checkpoints.checkpoint import checkpoint_metadata, initial_values, kept_names, shapes_of
from vactk.checkpoints.merge_inputs import MergeInput, original_source, plain_source
from vactk.errors import VactkError
from vactk.models.backbone import BackboneConfig
from vactk.models.temporal.adapters import FrameAdapterConfig, NoTemporal
from vactk.models.text_tower import TextAdapterConfig
from vactk.models.video_model import ADDED, TOWERS, Heads, ModelConfig, VideoModel, added_tensors, new_model
from vactk.progress import Progress
from vactk.weights.arithmetic import Coefficients, MergeTerm, check_fits, mixed_entries, mixed_rows, select
from vactk.weights.safetensors_file import METADATA_KEY, fingerprint
from vactk.weights.streaming import DictTensors, LayeredTensors, TensorReader, write_tensors

HEADS = ("class_head", "word_head")
KEPT_INFO = ("recipe", "dataset", "num_frames", "templates")  # of the last side that says so


@dataclass(frozen=True)
class MergePlan:
    """Sides made alike: every part holds every tensor of `names`, except heads that its side has not."""

    parts: tuple[MergeTerm, ...]
    names: tuple[str, ...]
    metadata: Mapping[str, Any]  # of a checkpoint; empty for a mixture of plain CLIPs
    notes: tuple[str, ...]  # what was decided, in words for the user
    is_plain: bool

    def coefficients(self, chosen: Coefficients) -> Coefficients:
        """`chosen`, where a tensor of a head that a side lacks counts among the other sides alone."""

        def weights(name: str) -> Sequence[float]:
            values = chosen(name)
            if name.split(".")[0] not in HEADS:
                return values
            return select(values, {i: name in part.source.entries for i, part in enumerate(self.parts)})

        return weights


def plan_merge(sides: Sequence[MergeInput], *, with_original: bool = False, heads: bool = True) -> MergePlan:
    """The mixture of `sides`; `with_original` puts the CLIP that they started from before them.

    Without `heads` those are left out. Raises VactkError when the sides do not match.
    """
    ours = [side for side in sides if side.config is not None]
    if not ours:
        if with_original:
            raise VactkError(
                f"'{sides[0].label}' is a plain CLIP and does not say what it started from; "
                "name two files, or a checkpoint of vactk's"
            )
        return _plain_merge(sides)
    config = _merged_config(ours)
    kept_heads = _merged_heads(ours) if heads else Heads()
    shapes = shapes_of(config, kept_heads)
    plan = _Plan(ours, config, shapes)
    sources = [plan.own_source(side) for side in sides]
    if with_original:
        sides = [MergeInput(f"the original {config.backbone.name}", DictTensors({}), ""), *sides]
        sources = [DictTensors({}), *sources]
    towers, frozen = plan.stored_towers(sides, sources)
    names = sorted(kept_names(shapes, towers))
    completed = [plan.complete(side, source, names) for side, source in zip(sides, sources, strict=True)]
    parts = tuple(MergeTerm(side.label, source) for side, source in zip(sides, completed, strict=True))
    other = f"'{ours[0].label}'"
    for part in parts:
        own = {n: shape for n, shape in _only(shapes, names).items() if n.split(".")[0] not in HEADS}
        check_fits(
            part, own, set(shapes) | {n for n in part.source.entries if n.split(".")[0] in HEADS}, other
        )
    metadata = {
        **{key: side.info[key] for key in KEPT_INFO for side in ours if key in side.info},
        **checkpoint_metadata(config, kept_heads, towers, frozen),
        "initial": plan.shared_initial(),
    }
    return MergePlan(parts, tuple(names), metadata, tuple(plan.notes), is_plain=False)


def _plain_merge(sides: Sequence[MergeInput]) -> MergePlan:
    first = sides[0]
    shapes = {name: entry.shape for name, entry in first.source.entries.items()}
    parts = tuple(MergeTerm(side.label, side.source) for side in sides)
    for part in parts[1:]:
        check_fits(part, shapes, set(shapes), f"'{first.label}'")
    return MergePlan(parts, tuple(sorted(shapes)), {}, (), is_plain=True)


class _Plan:
    """What the sides have and lack, and what was read to fill that in."""

    def __init__(
        self, ours: list[MergeInput], config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.ours = ours
        self.config = config
        self.shapes = shapes
        self.notes: list[str] = []
        self._originals: dict[BackboneConfig, TensorReader] = {}

    def own_source(self, side: MergeInput) -> TensorReader:
        """A side's tensors under vactk's names."""
        if side.config is not None:
            return side.source
        return plain_source(
            side.source, {n.removeprefix("clip.") for n in self.shapes if n.startswith("clip.")}
        )

    def original(self, side: MergeInput) -> TensorReader:
        """The CLIP that a side started from. Raises VactkError when it is another than the side was trained on."""
        config = self._backbone(side)
        if config not in self._originals:
            self._originals[config] = original_source(config)
        source = self._originals[config]
        expected = side.info.get("frozen_fingerprint")
        frozen = self.shapes.keys() - kept_names(self.shapes, side.towers)
        if expected and frozen and _print(source, frozen) != expected:
            raise VactkError(
                f"'{side.label}' was trained on other weights of backbone '{config.name}' than "
                f"'{config.pretrained}' holds; give the right file with --pretrained FILE"
            )
        return source

    def _backbone(self, side: MergeInput) -> BackboneConfig:
        return side.config.backbone if side.config is not None else self.ours[-1].config.backbone  # type: ignore[union-attr]

    def stored_towers(
        self, sides: Sequence[MergeInput], sources: Sequence[TensorReader]
    ) -> tuple[tuple[str, ...], str]:
        """The towers of CLIP that the result holds, and the fingerprint of what it leaves to the backbone.

        A tower that no side trained stays out, as long as all sides have the same one.
        """
        trained = tuple(tower for tower in TOWERS if any(tower in side.towers for side in self.ours))
        frozen = self.shapes.keys() - kept_names(self.shapes, trained)
        if not frozen:
            return TOWERS, fingerprint({})
        prints = set()
        for side, source in zip(sides, sources, strict=True):
            if side.config is not None and set(side.towers) == set(trained):
                prints.add(str(side.info.get("frozen_fingerprint")))
            elif frozen <= source.entries.keys():
                prints.add(_print(source, frozen))
            elif side.config is not None:
                prints.add(_print(self.original(side), frozen))
        if len(prints) == 1:
            return trained, prints.pop()
        self.notes.append("the sides differ in towers that they did not train: the result holds all of CLIP")
        return TOWERS, fingerprint({})

    def complete(self, side: MergeInput, source: TensorReader, names: Sequence[str]) -> TensorReader:
        """A side's tensors with what it lacks among `names`, except heads."""
        lacking = [name for name in names if name not in source.entries and name.split(".")[0] not in HEADS]
        layers: list[TensorReader] = [source]
        if any(name.startswith("clip.") for name in lacking) and (side.config is not None or not side.sha256):
            layers.append(self.original(side if side.config is not None else self.ours[-1]))
        if any(name.split(".")[0] in ADDED for name in lacking):
            layers.append(DictTensors(self._initial(lacking)))
        return LayeredTensors(*layers) if len(layers) > 1 else source

    def _initial(self, lacking: list[str]) -> dict[str, Any]:
        giver = next(side for side in self.ours if any(name in side.source.entries for name in lacking))
        trained = {
            name: giver.source.read(name)
            for name in added_tensors(self.shapes)
            if name in giver.source.entries
        }
        assert giver.config is not None
        values, how = initial_values(giver.config, giver.info.get("initial"), trained)
        note = f"added parameters that a side lacks stand at their initial values: {how}"
        if note not in self.notes:
            self.notes.append(note)
        return {name: values[name] for name in lacking if name in values}

    def shared_initial(self) -> Any:
        """How to rebuild initial values, where the sides that added something agree."""
        found = [side.info.get("initial") for side in self.ours if added_tensors(side.source.entries)]
        return found[0] if found and all(item == found[0] for item in found) else None


def save_merged(
    path: Path,
    mixture: MergePlan,
    chosen: Coefficients,
    info: Mapping[str, Any],
    progress: Progress | None = None,
) -> None:
    """Write a mixture, some rows at a time, as a file that `load_model` reads; of plain CLIPs as plain weights.

    `info` goes into its metadata. Raises VactkError for tensors that are not finite, and as `atomic_path` does.
    """
    coefficients = mixture.coefficients(chosen)
    entries = mixed_entries(mixture.parts, mixture.names, coefficients)
    done = 0

    def rows(name: str) -> Iterator[Tensor]:
        nonlocal done
        yield from mixed_rows(mixture.parts, name, coefficients)
        done += 1
        if progress is not None:
            progress(done, len(entries))

    if mixture.is_plain:  # not a checkpoint of ours: its metadata must not claim so
        metadata = {f"{METADATA_KEY}_mixture": json.dumps(info)}
    else:
        metadata = {METADATA_KEY: json.dumps({**mixture.metadata, **info})}
    write_tensors(path, entries, rows, metadata)


def merged_model(mixture: MergePlan) -> VideoModel:
    """A model of the mixture's architecture, with the weights of the backbone that it names where it holds none.

    Raises VactkError for a mixture of plain CLIPs.
    """
    if mixture.is_plain:
        raise VactkError(
            "plain weights do not say which model they are for: mix them with a checkpoint of vactk's"
        )
    config = settings.build(ModelConfig, mixture.metadata["model"])
    heads = settings.build(Heads, mixture.metadata["heads"])
    model = new_model(config, heads, weights=set(mixture.metadata["towers"]) != set(TOWERS))
    return dataclasses.replace(model, info=mixture.metadata)


def set_weights(model: VideoModel, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors`, under the names of checkpoints, into the model."""
    own = model.module_dict().state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _print(source: TensorReader, names: Any) -> str:
    return fingerprint({name: source.read(name) for name in names})


def _only(shapes: Mapping[str, tuple[int, ...]], names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    return {name: shapes[name] for name in names}


def _merged_config(ours: Sequence[MergeInput]) -> ModelConfig:
    """The architecture that holds all sides. Raises VactkError when two add different modules in one place."""
    first = ours[0]
    assert first.config is not None
    merged = first.config
    for side in ours[1:]:
        assert side.config is not None
        merged = dataclasses.replace(
            merged,
            temporal=_either(first, side, "temporal", merged.temporal, NoTemporal()),
            text_adapter=_either(first, side, "text_adapter", merged.text_adapter, TextAdapterConfig()),
            frame_adapter=_either(first, side, "frame_adapter", merged.frame_adapter, FrameAdapterConfig()),
        )
        for key in ("name", "quick_gelu"):
            one, two = getattr(first.config.backbone, key), getattr(side.config.backbone, key)
            if one != two and not (key == "name" and _are_files(one, two)):
                raise VactkError(
                    f"the architectures of '{first.label}' and '{side.label}' do not match; "
                    f"backbone.{key}: {one!r} and {two!r}"
                )
        if side.config.similarity != merged.similarity:
            raise VactkError(
                f"'{first.label}' and '{side.label}' compare videos with text in different ways; "
                f"similarity: {merged.similarity!r} and {side.config.similarity!r}"
            )
    return merged


def _are_files(one: str, two: str) -> bool:
    """Architectures that are read off files are compared by their tensors."""
    return bool(Path(one).suffix and Path(two).suffix)


def _either(first: MergeInput, side: MergeInput, key: str, one: Any, nothing: Any) -> Any:
    """The setting of a module of which at least one side has none, or both the same."""
    two = getattr(side.config, key)
    if one == two or two == nothing:
        return one
    if one == nothing:
        return two
    raise VactkError(
        f"the architectures of '{first.label}' and '{side.label}' do not match; "
        f"{key}: {_plain(one)} and {_plain(two)}"
    )


def _plain(config: Any) -> str:
    return f"{type(config).__name__.removesuffix('Config')} {settings.to_dict(config)}"


def _merged_heads(ours: Sequence[MergeInput]) -> Heads:
    """The heads of all sides. Raises VactkError when two sides' heads tell different things apart."""
    merged = ours[0].heads
    for side in ours[1:]:
        heads = side.heads
        if merged.class_head and heads.class_head and merged.classes != heads.classes:
            raise VactkError(_differing_heads(ours[0], side, "class heads know different classes"))
        if merged.vocabulary and heads.vocabulary and merged.vocabulary != heads.vocabulary:
            raise VactkError(_differing_heads(ours[0], side, "masked-word heads know different words"))
        owner = merged if merged.class_head or not heads.class_head else heads
        merged = dataclasses.replace(owner, vocabulary=merged.vocabulary or heads.vocabulary)
    return merged


def _differing_heads(one: MergeInput, two: MergeInput, what: str) -> str:
    return (
        f"'{one.label}' and '{two.label}' do not match: their {what}; leave the heads out with --drop-heads"
    )
