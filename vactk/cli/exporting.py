"""The work of `vactk export`: what model, which classes, what it is checked on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vactk.cli.display import Display
from vactk.cli.models import load_for_evaluation
from vactk.errors import VactkError

if TYPE_CHECKING:
    from torch import Tensor

    from vactk.data.config import DataConfig
    from vactk.data.records import VideoSet
    from vactk.export.graph_specs import Samples
    from vactk.export.metadata import InferenceSpec, Labels
    from vactk.models.video_model import VideoModel
    from vactk.train.recipe import Recipe

CHECKED_VIDEOS = 2
CHECK_DATASET = "shapes"
CHECK_TEXTS = ("a photo of a dog", "a video of a person riding a horse", "juggling")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What the options ask for, before any model is loaded."""

    checkpoint: Path | None
    overrides: dict[str, Any]  # of a recipe
    labels: tuple[str, ...] | None
    by: str
    output: Path
    settings: dict[str, Any]  # of an ExportConfig
    results: tuple[Path, ...]
    videos: tuple[Path, ...]
    dataset: str | None
    split: str | None
    data_root: Path | None
    measure: int


def run_export(asked: ExportOptions, shown: Display) -> dict[str, Any]:
    """Everything that the command does; its result. Raises VactkError as the parts do."""
    from vactk.errors import pick
    from vactk.export.formats import ExportConfig, export_model
    from vactk.export.graph_specs import GRAPHS, refuse_without_labels
    from vactk.files.atomic import refuse_existing

    config = ExportConfig(**asked.settings)
    for name in config.parts:
        pick(GRAPHS, name, "part")
    if config.precision == "int8" and config.parts and "video" not in config.parts:
        raise VactkError("--quantize measures its loss with the video encoder: add --part video")
    refuse_existing(asked.output)
    if config.format == "onnx":
        from vactk.export.onnx_files import require

        require("onnx", "onnxscript", "onnxruntime", "onnxconverter_common")
    results = read_results(asked.results) or run_results(asked.checkpoint)
    model, recipe = load_for_evaluation(asked.checkpoint, asked.overrides, {}, shown.message)
    videos = _find_videos(asked, shown, needed=config.precision == "int8")
    labels = _labels(asked, model, recipe, videos)
    refuse_without_labels(config.parts, labels)
    serving = _serving(asked, model, recipe, labels, results)
    samples = _samples(asked, model, recipe.data, videos, labels, shown)
    accuracy: dict[str, Any] = {}

    def inspect(folder: Path) -> None:
        if config.precision == "int8":
            accuracy.update(_measure(asked, model, recipe, videos, folder / "video_encoder.onnx", shown))

    exported = export_model(
        model, asked.output, config, serving, samples, shown.progress(config.format), inspect
    )
    files = [{**asdict(file), "path": str(asked.output / file.path)} for file in exported.files]
    return {
        "files": files,
        "output": str(asked.output),
        "checked_on": _checked_on(asked, videos),
        "labels": len(labels.names) if labels else 0,
        **({"accuracy": accuracy} if accuracy else {}),
        **({"import": model.info["import"]} if "import" in model.info else {}),
        "notes": list(exported.notes),
    }


def _find_videos(asked: ExportOptions, shown: Display, *, needed: bool) -> VideoSet | None:
    """The dataset that is checked on, unless the user's own files are enough."""
    from vactk.data.datasets import find_dataset

    if asked.dataset is None and asked.videos and not needed:
        return None
    dataset = find_dataset(asked.dataset or CHECK_DATASET)
    split = asked.split or dataset.test_split
    if asked.dataset is None:
        shown.message(
            f"real frames to check on: {CHECK_DATASET}, {split}; --video FILE or --dataset choose others"
        )
    name = asked.dataset or CHECK_DATASET
    return dataset.load(split, root=asked.data_root, progress=shown.progress(f"{name}: videos"))


def _labels(
    asked: ExportOptions, model: VideoModel, recipe: Recipe, videos: VideoSet | None
) -> Labels | None:
    """The classes of the classifier; None where nothing names any."""
    from vactk.export.metadata import Labels
    from vactk.models.video_model import unnamed
    from vactk.text.templates import as_words

    trained = model.heads.classes
    names, words = asked.labels, None
    if names is None and asked.dataset is not None and videos is not None and videos.classes:
        names, words = videos.classes, videos.words
    if names is None and trained and trained != unnamed(len(trained)):
        names = trained
    if names is None:
        return None
    words = words or tuple(as_words(name) for name in names)
    return Labels(names, words, _embed(model, recipe, words))


def _embed(model: VideoModel, recipe: Recipe, words: tuple[str, ...]) -> Tensor:
    import torch

    from vactk.evaluate.classifier import class_embeddings
    from vactk.text.templates import choose_templates

    return class_embeddings(model, words, choose_templates(recipe.templates), torch.device("cpu"))


def _serving(
    asked: ExportOptions,
    model: VideoModel,
    recipe: Recipe,
    labels: Labels | None,
    results: tuple[dict[str, Any], ...],
) -> InferenceSpec:
    from vactk.export.metadata import InferenceSpec
    from vactk.text.templates import choose_templates

    return InferenceSpec(
        data=recipe.data,
        templates=choose_templates(recipe.templates),
        source={**describe_source(asked.checkpoint, model), "results": results},
        labels=labels,
        answer=asked.by,
    )


def describe_source(checkpoint: Path | None, model: VideoModel) -> dict[str, Any]:
    """Which model this is: for metadata and model cards."""
    from vactk.files.hashing import sha256

    if checkpoint is None:
        return {"name": f"{model.config.backbone.name} as a video model"}
    own = checkpoint / "model.safetensors"
    file = own if checkpoint.is_dir() and own.is_file() else checkpoint
    return {
        "name": checkpoint.resolve().name,
        "checkpoint": file.name,
        "sha256": sha256(file) if file.is_file() else None,
        "step": model.info.get("step"),
        "recipe": model.info.get("recipe"),
    }


def read_results(paths: tuple[Path, ...]) -> tuple[dict[str, Any], ...]:
    """What measuring commands wrote with --json. Raises VactkError where a file is not that."""
    found = []
    for path in paths:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise VactkError(f"cannot read results from '{path}': {error}") from error
        if not isinstance(value, dict) or "top1" not in value:
            raise VactkError(f"'{path}' is no result of `vactk zeroshot --json`: it has no top1")
        found.append(value)
    return tuple(found)


def run_results(checkpoint: Path | None) -> tuple[dict[str, Any], ...]:
    """What training measured, where `checkpoint` is a run folder."""
    if checkpoint is None or not (checkpoint / "result.json").is_file():
        return ()
    value = json.loads((checkpoint / "result.json").read_text(encoding="utf-8"))
    return tuple(found for found in value.get("metrics", {}).values() if "top1" in found)


def _samples(
    asked: ExportOptions,
    model: VideoModel,
    data: DataConfig,
    videos: VideoSet | None,
    labels: Labels | None,
    shown: Display,
) -> Samples:
    """Frames of real videos, as they are evaluated, and real texts."""
    from vactk.data.config import ImageSpec
    from vactk.data.records import Record
    from vactk.data.video_dataset import VideoDataset
    from vactk.export.graph_specs import Samples
    from vactk.export.quantization_loss import some_videos

    if asked.videos:
        records = tuple(Record(video=path) for path in asked.videos)
    else:
        assert videos is not None
        records = some_videos(videos, CHECKED_VIDEOS).records
    picture = ImageSpec(model.backbone.image_size, model.backbone.mean, model.backbone.std)
    dataset = VideoDataset(records, data, picture, train=False)
    views = []
    for place in range(len(records)):
        item = dataset[0, place]
        if item.views is None:
            assert item.error is not None
            raise VactkError(f"cannot check on a real video: {item.error.message}")
        views.append(item.views)
    words = labels.words if labels else CHECK_TEXTS
    return Samples(videos=views, texts=words)


def _measure(
    asked: ExportOptions,
    model: VideoModel,
    recipe: Recipe,
    videos: VideoSet | None,
    file: Path,
    shown: Display,
) -> dict[str, Any]:
    from vactk.export.modules import VideoEncoder
    from vactk.export.onnx_files import run_onnx
    from vactk.export.quantization_loss import int8_accuracy_drop, some_videos

    assert videos is not None
    if not videos.classes:
        raise VactkError(
            f"{videos.name} has no classes to measure the loss of --quantize on: name another --dataset"
        )
    chosen = some_videos(videos, asked.measure)
    loss = int8_accuracy_drop(
        model,
        VideoEncoder(model.video_clip, model.config.similarity).eval(),
        run_onnx(file),
        chosen,
        _embed(model, recipe, videos.words),
        recipe.data,
        shown.progress("accuracy"),
    )
    return loss.to_json()


def _checked_on(asked: ExportOptions, videos: VideoSet | None) -> str:
    if asked.videos or videos is None:
        return ", ".join(map(str, asked.videos))
    return f"{videos.name}, {videos.split}"
