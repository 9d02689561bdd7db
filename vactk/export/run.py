"""Export a model for a command: its classes, the real inputs to check on, the files, and the loss of int8."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vactk.data.config import ImageSpec
from vactk.data.datasets import find_dataset
from vactk.data.records import Record, VideoSet
from vactk.data.video_dataset import VideoDataset
from vactk.errors import VactkError
from vactk.evaluate.classifier import class_embeddings
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.protocol_splits import split_data
from vactk.evaluate.setup import prepare_model
from vactk.evaluate.zero_shot import evaluate_protocol
from vactk.export.formats import ExportConfig, export_model
from vactk.export.graph_specs import VIDEO, Samples, refuse_without_labels
from vactk.export.metadata import InferenceSpec, Labels
from vactk.export.modules import VideoEncoder
from vactk.export.onnx_files import require, run_onnx
from vactk.export.quantization_loss import int8_accuracy_drop, some_videos
from vactk.files.atomic import refuse_existing
from vactk.files.hashing import sha256
from vactk.models.video_model import VideoModel, unnamed
from vactk.progress import Reporter
from vactk.text.templates import as_words

CHECKED_VIDEOS = 2
CHECK_DATASET = "shapes"
CHECK_TEXTS = ("a photo of a dog", "a video of a person riding a horse", "juggling")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Everything that an export is asked for, besides the model."""

    config: ExportConfig
    output: Path
    checkpoint: Path | None = None  # for metadata; its run folder may hold results
    labels: tuple[str, ...] | None = None  # null: those of the dataset, or of training
    answer: str = "similarity"  # of the classifier
    results: tuple[Path, ...] = ()  # of `vactk zeroshot --json`, for the model card
    videos: tuple[Path, ...] = ()  # to check on
    dataset: str | None = None  # to check on, where no videos are given
    split: str | None = None
    data_root: Path | None = None
    num_measured: int = 96  # videos on which int8 is measured; 0: all


def run_export(
    options: ExportOptions, load: Callable[[], tuple[VideoModel, EvalConfig]], reporter: Reporter
) -> dict[str, Any]:
    """Export the model that `load` gives, and return a summary for JSON. What it can refuse it does before loading.

    Raises VactkError for options that contradict each other, and as `export_model` does.
    """
    refuse_existing(options.output)
    if options.config.format == "onnx":
        require("onnx", "onnxscript", "onnxruntime", "onnxconverter_common")
    results = read_results(options.results) or run_results(options.checkpoint)
    model, settings = load()
    return _Export(options, model, settings, reporter).run(results)


class _Export:
    """An export under way."""

    def __init__(
        self, options: ExportOptions, model: VideoModel, settings: EvalConfig, reporter: Reporter
    ) -> None:
        self.options = options
        self.model = model
        self.settings = settings
        self.reporter = reporter
        self.measures = options.config.precision == "int8"
        self.videos = self._find_videos()

    def run(self, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
        options, config, labels = self.options, self.options.config, self._labels()
        refuse_without_labels(config.parts, labels)
        inference = InferenceSpec(
            data=self.settings.data,
            templates=self.settings.prompts,
            source={**describe_source(options.checkpoint, self.model), "results": results},
            labels=labels,
            answer=options.answer,
        )
        samples = Samples(videos=self._real_views(), texts=labels.words if labels else CHECK_TEXTS)
        accuracy: dict[str, Any] = {}

        def inspect(folder: Path) -> None:
            if self.measures:
                accuracy.update(self._measure(folder / f"{VIDEO}.onnx"))

        progress = self.reporter.progress(config.format)
        exported = export_model(
            self.model, options.output, config, inference, samples, progress, inspect, self._results
        )
        return {
            "files": [{**asdict(file), "path": str(options.output / file.path)} for file in exported.files],
            "output": str(options.output),
            "checked_on": self._checked_on(),
            "labels": len(labels.names) if labels else 0,
            **({"accuracy": accuracy} if accuracy else {}),
            **({"import": self.model.info["import"]} if "import" in self.model.info else {}),
            "notes": list(exported.notes),
        }

    def _find_videos(self) -> VideoSet | None:
        """The dataset to check on, unless the user's own files are enough."""
        options = self.options
        if options.dataset is None and options.videos and not self.measures:
            return None
        name = options.dataset or CHECK_DATASET
        dataset = find_dataset(name)
        split = options.split or dataset.test_split
        if options.dataset is None:
            self.reporter.message(
                f"real frames to check on: {name}, {split}; --video FILE or --dataset choose others"
            )
        progress = self.reporter.progress(f"{name}: videos")
        return dataset.load(split, root=options.data_root, progress=progress)

    def _labels(self) -> Labels | None:
        """The classes of the classifier; None where nothing names any."""
        trained = self.model.heads.classes
        names, words = self.options.labels, None
        if names is None and self.options.dataset is not None and self.videos and self.videos.classes:
            names, words = self.videos.classes, self.videos.words
        if names is None and trained and trained != unnamed(len(trained)):
            names = trained
        if names is None:
            return None
        words = words or tuple(as_words(name) for name in names)
        return Labels(names, words, self._embed(words))

    def _embed(self, words: tuple[str, ...]) -> Tensor:
        return class_embeddings(self.model, words, self.settings.prompts, torch.device("cpu"))

    def _real_views(self) -> list[Tensor]:
        """Views of real videos, as they are evaluated. Raises VactkError for one that cannot be read."""
        if self.options.videos:
            records = tuple(Record(video=path) for path in self.options.videos)
        else:
            assert self.videos is not None
            records = some_videos(self.videos, CHECKED_VIDEOS).records
        backbone = self.model.backbone
        image = ImageSpec(backbone.image_size, backbone.mean, backbone.std)
        dataset = VideoDataset(records, self.settings.data, image, train=False)
        views = []
        for number in range(len(records)):
            sample = dataset[0, number]
            if sample.views is None:
                assert sample.error is not None
                raise VactkError(f"cannot check on a real video: {sample.error.message}")
            views.append(sample.views)
        return views

    def _measure(self, file: Path) -> dict[str, Any]:
        """The accuracy that an int8 video encoder loses. Raises VactkError for a dataset without classes."""
        videos = self.videos
        assert videos is not None
        if not videos.classes:
            raise VactkError(
                f"{videos.name} has no classes to measure the loss of --quantize on: name another --dataset"
            )
        return int8_accuracy_drop(
            self.model,
            VideoEncoder(self.model.video_clip, self.model.config.similarity).eval(),
            run_onnx(file),
            some_videos(videos, self.options.num_measured),
            self._embed(videos.words),
            self.settings.data,
            self.reporter.progress("accuracy"),
        ).to_json()

    def _results(self, model: VideoModel) -> list[dict[str, Any]]:
        """The accuracies of a model on the dataset that was named, or that it was trained on; none on another."""
        videos, options = self.videos, self.options
        trained_on = str(self.model.info.get("recipe", {}).get("dataset", ""))
        if videos is None or not videos.classes or (options.dataset is None and trained_on != CHECK_DATASET):
            return []
        part = some_videos(videos, options.num_measured)
        progress = self.reporter.progress("accuracy, frames apart")
        settings = self.settings
        found = evaluate_protocol(
            model, split_data(part), settings, prepare_model(model, settings), progress=progress
        )
        how = {
            "frames": settings.data.num_frames,
            "views": settings.data.views,
            "templates": settings.templates,
        }
        return [{**found.to_json(), **how}]

    def _checked_on(self) -> str:
        if self.options.videos or self.videos is None:
            return ", ".join(map(str, self.options.videos))
        return f"{self.videos.name}, {self.videos.split}"


def describe_source(checkpoint: Path | None, model: VideoModel) -> dict[str, Any]:
    """Return name, hash and recipe of the model, for metadata and model cards."""
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


def read_results(paths: Sequence[Path]) -> tuple[dict[str, Any], ...]:
    """Read results that `vactk zeroshot --json` wrote. Raises VactkError where a file holds anything else."""
    found = []
    for path in paths:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise VactkError(f"cannot read results from '{path}': {error}") from error
        if not isinstance(value, dict) or "top1" not in value:
            raise VactkError(f"'{path}' is not a result of `vactk zeroshot --json`: it has no top1")
        found.append(value)
    return tuple(found)


def run_results(checkpoint: Path | None) -> tuple[dict[str, Any], ...]:
    """Read the results of training, where `checkpoint` is a run folder."""
    if checkpoint is None or not (checkpoint / "result.json").is_file():
        return ()
    value = json.loads((checkpoint / "result.json").read_text(encoding="utf-8"))
    return tuple(found for found in value.get("metrics", {}).values() if "top1" in found)
