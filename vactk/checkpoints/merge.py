"""Plan a merge of checkpoints, its architecture and tensors, and write the result.

Tensors that a checkpoint lacks have their values in the original CLIP: CLIP's own weights those of the backbone
that the checkpoint names, added ones their initial values (`initial_values`). Heads, which CLIP lacks, come only
from the checkpoints that have them.
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
from vactk.checkpoints.merge_inputs import MergeInput, original_tensors, rename_plain
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
KEPT_INFO = ("recipe", "dataset", "num_frames", "templates")  # of the last checkpoint that has it


@dataclass(frozen=True)
class MergePlan:
    """Checkpoints made alike: every term has every tensor of `names`, except heads that its checkpoint lacks."""

    terms: tuple[MergeTerm, ...]
    names: tuple[str, ...]
    metadata: Mapping[str, Any]  # of a checkpoint; empty for a mixture of plain CLIPs
    notes: tuple[str, ...]  # decisions, for the user
    is_plain: bool

    def coefficients(self, chosen: Coefficients) -> Coefficients:
        """`chosen`, with a head's tensor weighted only among the checkpoints that have it."""

        def weights(name: str) -> Sequence[float]:
            values = chosen(name)
            if name.split(".")[0] not in HEADS:
                return values
            return select(values, {i: name in term.source.entries for i, term in enumerate(self.terms)})

        return weights


def plan_merge(inputs: Sequence[MergeInput], *, with_original: bool = False, heads: bool = True) -> MergePlan:
    """Plan the merge of `inputs`; `with_original` puts the CLIP that they started from before them.

    Without `heads` those are left out. Raises VactkError when the checkpoints do not match.
    """
    ours = [checkpoint for checkpoint in inputs if checkpoint.config is not None]
    if with_original and not any(_names_its_original(checkpoint) for checkpoint in ours):
        raise VactkError(
            f"'{inputs[0].label}' is a plain CLIP and does not say what it started from; "
            "name two files, or a checkpoint of vactk's"
        )
    if not ours:
        return _plain_merge(inputs)
    config = _merged_config(ours)
    kept_heads = _merged_heads(ours) if heads else Heads()
    shapes = shapes_of(config, kept_heads)
    completion = _Completion(ours, config, shapes)
    sources = [completion.own_tensors(checkpoint) for checkpoint in inputs]
    if with_original:
        inputs = [MergeInput(f"the original {config.backbone.name}", DictTensors({}), ""), *inputs]
        sources = [DictTensors({}), *sources]
    towers, frozen = completion.stored_towers(inputs, sources)
    names = sorted(kept_names(shapes, towers))
    sources = [completion.complete(*pair, names) for pair in zip(inputs, sources, strict=True)]
    terms = tuple(MergeTerm(one.label, source) for one, source in zip(inputs, sources, strict=True))
    other = f"'{ours[0].label}'"
    needed = {name: shapes[name] for name in names if name.split(".")[0] not in HEADS}
    for term in terms:
        own_heads = {name for name in term.source.entries if name.split(".")[0] in HEADS}
        check_fits(term, needed, shapes.keys() | own_heads, other)
    metadata = {
        **{key: checkpoint.info[key] for key in KEPT_INFO for checkpoint in ours if key in checkpoint.info},
        **checkpoint_metadata(config, kept_heads, towers, frozen),
        "initial": completion.shared_initial(),
    }
    return MergePlan(terms, tuple(names), metadata, tuple(completion.notes), is_plain=False)


def _names_its_original(checkpoint: MergeInput) -> bool:
    """Whether the backbone of a checkpoint is another file or model than the checkpoint itself."""
    return checkpoint.config is not None and checkpoint.config.backbone.name != checkpoint.label


def _plain_merge(inputs: Sequence[MergeInput]) -> MergePlan:
    first = inputs[0]
    shapes = {name: entry.shape for name, entry in first.source.entries.items()}
    terms = tuple(MergeTerm(checkpoint.label, checkpoint.source) for checkpoint in inputs)
    for term in terms[1:]:
        check_fits(term, shapes, set(shapes), f"'{first.label}'")
    return MergePlan(terms, tuple(sorted(shapes)), {}, (), is_plain=True)


class _Completion:
    """The tensors that each checkpoint has and lacks, and the originals that were read to fill them in."""

    def __init__(
        self, ours: list[MergeInput], config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.ours = ours
        self.config = config
        self.shapes = shapes
        self.notes: list[str] = []
        self._originals: dict[BackboneConfig, TensorReader] = {}

    def own_tensors(self, checkpoint: MergeInput) -> TensorReader:
        """A checkpoint's tensors under vactk's names."""
        if checkpoint.config is not None:
            return checkpoint.source
        return rename_plain(
            checkpoint.source, {n.removeprefix("clip.") for n in self.shapes if n.startswith("clip.")}
        )

    def original(self, checkpoint: MergeInput) -> TensorReader:
        """The CLIP that a checkpoint started from. Raises VactkError when it is not what it was trained on."""
        config = self._backbone(checkpoint)
        if config not in self._originals:
            self._originals[config] = original_tensors(config)
        source = self._originals[config]
        expected = checkpoint.info.get("frozen_fingerprint")
        frozen = self.shapes.keys() - kept_names(self.shapes, checkpoint.towers)
        if expected and frozen and _print(source, frozen) != expected:
            raise VactkError(
                f"'{checkpoint.label}' was trained on other weights of backbone '{config.name}' than "
                f"'{config.pretrained}' holds; give the right file with --pretrained FILE"
            )
        return source

    def _backbone(self, checkpoint: MergeInput) -> BackboneConfig:
        return checkpoint.config.backbone if checkpoint.config is not None else self.ours[-1].config.backbone  # type: ignore[union-attr]

    def stored_towers(
        self, inputs: Sequence[MergeInput], sources: Sequence[TensorReader]
    ) -> tuple[tuple[str, ...], str]:
        """The towers of CLIP that the result holds, and the fingerprint of what it leaves to the backbone.

        A tower that no checkpoint trained stays out, as long as all of them have the same one.
        """
        trained = tuple(
            tower for tower in TOWERS if any(tower in checkpoint.towers for checkpoint in self.ours)
        )
        frozen = self.shapes.keys() - kept_names(self.shapes, trained)
        if not frozen:
            return TOWERS, fingerprint({})
        prints = set()
        for checkpoint, source in zip(inputs, sources, strict=True):
            if checkpoint.config is not None and set(checkpoint.towers) == set(trained):
                prints.add(str(checkpoint.info.get("frozen_fingerprint")))
            elif frozen <= source.entries.keys():
                prints.add(_print(source, frozen))
            elif checkpoint.config is not None:
                prints.add(_print(self.original(checkpoint), frozen))
        if len(prints) == 1:
            return trained, prints.pop()
        self.notes.append(
            "the checkpoints differ in towers that they did not train: the result holds all of CLIP"
        )
        return TOWERS, fingerprint({})

    def complete(self, checkpoint: MergeInput, source: TensorReader, names: Sequence[str]) -> TensorReader:
        """A checkpoint's tensors with what it lacks among `names`, except heads."""
        lacking = [name for name in names if name not in source.entries and name.split(".")[0] not in HEADS]
        layers: list[TensorReader] = [source]
        if any(name.startswith("clip.") for name in lacking) and (
            checkpoint.config is not None or not checkpoint.sha256
        ):
            layers.append(self.original(checkpoint if checkpoint.config is not None else self.ours[-1]))
        if any(name.split(".")[0] in ADDED for name in lacking):
            layers.append(DictTensors(self._initial(lacking)))
        return LayeredTensors(*layers) if len(layers) > 1 else source

    def _initial(self, lacking: list[str]) -> dict[str, Any]:
        giver = next(
            checkpoint
            for checkpoint in self.ours
            if any(name in checkpoint.source.entries for name in lacking)
        )
        trained = {
            name: giver.source.read(name)
            for name in added_tensors(self.shapes)
            if name in giver.source.entries
        }
        assert giver.config is not None
        values, how = initial_values(giver.config, giver.info.get("initial"), trained)
        note = f"added parameters that a checkpoint lacks have their initial values: {how}"
        if note not in self.notes:
            self.notes.append(note)
        return {name: values[name] for name in lacking if name in values}

    def shared_initial(self) -> Any:
        """Return how to rebuild initial values, where the checkpoints that added something agree."""
        found = [
            checkpoint.info.get("initial")
            for checkpoint in self.ours
            if added_tensors(checkpoint.source.entries)
        ]
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
    entries = mixed_entries(mixture.terms, mixture.names, coefficients)
    done = 0

    def rows(name: str) -> Iterator[Tensor]:
        nonlocal done
        yield from mixed_rows(mixture.terms, name, coefficients)
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


def _merged_config(ours: Sequence[MergeInput]) -> ModelConfig:
    """The architecture that holds all checkpoints. Raises VactkError when two add different modules."""
    first = ours[0]
    assert first.config is not None
    merged = first.config
    for checkpoint in ours[1:]:
        assert checkpoint.config is not None
        merged = dataclasses.replace(
            merged,
            temporal=_either(first, checkpoint, "temporal", merged.temporal, NoTemporal()),
            text_adapter=_either(first, checkpoint, "text_adapter", merged.text_adapter, TextAdapterConfig()),
            frame_adapter=_either(
                first, checkpoint, "frame_adapter", merged.frame_adapter, FrameAdapterConfig()
            ),
        )
        for key in ("name", "quick_gelu"):
            one, two = getattr(merged.backbone, key), getattr(checkpoint.config.backbone, key)
            if one != two and not (key == "name" and (_is_path(one) or _is_path(two))):
                raise VactkError(
                    f"the architectures of '{first.label}' and '{checkpoint.label}' do not match; "
                    f"backbone.{key}: {one!r} and {two!r}"
                )
        if _is_path(merged.backbone.name):
            merged = dataclasses.replace(merged, backbone=checkpoint.config.backbone)
        if checkpoint.config.similarity != merged.similarity:
            raise VactkError(
                f"'{first.label}' and '{checkpoint.label}' compare videos with text in different ways; "
                f"similarity: {merged.similarity!r} and {checkpoint.config.similarity!r}"
            )
    return merged


def _is_path(backbone: str) -> bool:
    """Whether a backbone is read from a file or folder: such architectures are compared by their tensors."""
    return bool(Path(backbone).suffix) or Path(backbone).exists()


def _either(first: MergeInput, checkpoint: MergeInput, key: str, one: Any, nothing: Any) -> Any:
    """The setting of a module that at least one of two checkpoints lacks, or both have alike."""
    two = getattr(checkpoint.config, key)
    if one == two or two == nothing:
        return one
    if one == nothing:
        return two
    raise VactkError(
        f"the architectures of '{first.label}' and '{checkpoint.label}' do not match; "
        f"{key}: {_plain(one)} and {_plain(two)}"
    )


def _plain(config: Any) -> str:
    return f"{type(config).__name__.removesuffix('Config')} {settings.to_dict(config)}"


def _merged_heads(ours: Sequence[MergeInput]) -> Heads:
    """The heads of all checkpoints. Raises VactkError when the heads of two have different outputs."""
    merged = ours[0].heads
    for checkpoint in ours[1:]:
        heads = checkpoint.heads
        if merged.class_head and heads.class_head and merged.classes != heads.classes:
            raise VactkError(_differing_heads(ours[0], checkpoint, "class heads know different classes"))
        if merged.vocabulary and heads.vocabulary and merged.vocabulary != heads.vocabulary:
            raise VactkError(_differing_heads(ours[0], checkpoint, "masked-word heads know different words"))
        owner = merged if merged.class_head or not heads.class_head else heads
        merged = dataclasses.replace(owner, vocabulary=merged.vocabulary or heads.vocabulary)
    return merged


def _differing_heads(one: MergeInput, two: MergeInput, what: str) -> str:
    return (
        f"'{one.label}' and '{two.label}' do not match: their {what}; leave the heads out with --drop-heads"
    )
