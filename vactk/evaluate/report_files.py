"""What an evaluation leaves in a folder: predictions.csv, heat maps and report.html."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vactk.config import to_dict
from vactk.data.config import DataConfig
from vactk.data.records import Record
from vactk.data.video_dataset import VideoDataset, eval_loader, released_sampling
from vactk.errors import VactkError
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.heat_maps import METHOD, draw_heat_map, heat_map
from vactk.evaluate.prediction_rows import listed_path, prediction_rows
from vactk.evaluate.results import ClassifierName, Unreadable
from vactk.evaluate.scoring import image_spec
from vactk.evaluate.versions import versions
from vactk.evaluate.zero_shot import Evaluated, scorer_key
from vactk.files.atomic import write_json
from vactk.files.hashing import sha256
from vactk.models.video_model import VideoModel
from vactk.report import page
from vactk.report.figures import SHOWN_SPLITS, best_and_worst
from vactk.report.heat_maps import HeatMap, write_heat_maps
from vactk.report.predictions import FILE, PredictedVideo, first_answers, write_predictions
from vactk.report.run_folder import CHECKPOINT, EVALUATION, RESULT

HEAT_MAPS = 3  # right answers with a heat map, and wrong ones, over all splits


def save_predictions(
    folder: Path,
    model: VideoModel,
    evaluated: Sequence[Evaluated],
    config: EvalConfig,
    device: torch.device,
    *,
    by: ClassifierName = "similarity",
    unreadable: Unreadable = "wrong",
) -> None:
    """Write the rows of evaluations of `model` into `folder`, and heat maps of a few videos. For one process."""
    rows = [row for one in evaluated for row in prediction_rows(one, by, unreadable)]
    write_predictions(folder, rows)
    maps = [found for one in evaluated for found in _heat_maps(model, one, rows, config, device)]
    write_heat_maps(folder, METHOD, maps)


def save_report(folder: Path, message: Callable[[str], None]) -> None:
    """Write report.html from the files in `folder`; `message` says where it is, or why there is none."""
    if not page.can_write_pages():
        message(f"{folder / FILE} is written; for a report: {page.HOW_TO_GET}, then vactk report {folder}")
        return
    try:
        page.write_report([folder], folder / page.FILE)
    except VactkError as error:
        message(f"no report: {error}")
    else:
        message(f"report: {folder / page.FILE}")


def _heat_maps(
    model: VideoModel,
    evaluated: Evaluated,
    rows: Sequence[PredictedVideo],
    config: EvalConfig,
    device: torch.device,
) -> Iterator[HeatMap]:
    """Draw the videos that a report shows first of each split. A video that can no longer be read has none."""
    videos = evaluated.data.videos
    by_split = dict(list(first_answers(rows).items())[:SHOWN_SPLITS])
    for split in (split for split in evaluated.data.splits if split.name in by_split):
        own = by_split[split.name]
        answer = (
            "class_head" if own[0].by == "class_head" else "similarity"
        )  # of an ensemble, what all models have
        scorer = evaluated.scorers[scorer_key(answer, split.classes)]
        best, worst = best_and_worst(own, -(-HEAT_MAPS // len(by_split)))
        chosen = {row.key[1:]: row for row in (*worst, *best)}
        records = [
            record
            for record in (videos.records[index] for index in split.records)
            if (listed_path(record), record.start_s, record.end_s) in chosen
        ]
        for record, frames, seen in _read(model, records, released_sampling(config.data, videos.name)):
            row = chosen[listed_path(record), record.start_s, record.end_s]
            number = split.classes.index(videos.classes.index(row.answer))
            heat = heat_map(model, frames.to(device), scorer, number)
            yield HeatMap(row, draw_heat_map(seen, heat))


def _read(
    model: VideoModel, records: Sequence[Record], data: DataConfig
) -> Iterator[tuple[Record, Tensor, Tensor]]:
    """Yield each record that can be read, its frames normalised, and from 0 to 1: (T, 3, H, W). The middle crop."""
    spec = image_spec(model)
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    dataset = VideoDataset(records, dataclasses.replace(data, views=1), spec, train=False)
    for batch in eval_loader(dataset, 1):
        for index, views in zip(batch.indices.tolist(), batch.video, strict=True):
            frames = views[len(views) // 2]
            yield records[index], frames, frames * std + mean


def save_evaluation(
    folder: Path,
    model: VideoModel,
    evaluated: Evaluated,
    config: EvalConfig,
    device: torch.device,
    result: Mapping[str, Any],
    checkpoint: Path | None,
) -> None:
    """Write an evaluation alone into `folder`: predictions, result, settings, hashes. For one process.

    `result` has the keys of `EvalResult.to_json`; `checkpoint` is the file or folder of the model's weights.
    """
    save_predictions(
        folder, model, [evaluated], config, device, by=result["by"], unreadable=result["unreadable"]
    )
    write_json(folder / RESULT, result, indent=2)
    backbone = model.config.backbone
    used: dict[str, Any] = {"backbone": backbone.name, "weights of the backbone": backbone.pretrained}
    if checkpoint is not None:
        file = checkpoint / CHECKPOINT if checkpoint.is_dir() else checkpoint
        used |= {"checkpoint": str(checkpoint), "SHA-256": sha256(file) if file.is_file() else None}
    evaluation = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "model": used,
        "settings": {"model": to_dict(model.config), **to_dict(config)},
        "versions": versions(),
    }
    write_json(folder / EVALUATION, evaluation, indent=2)
