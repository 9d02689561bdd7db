"""The folder of a run or of an evaluation, as a report reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vactk.config import read_yaml
from vactk.errors import VactkError
from vactk.files.hashing import sha256
from vactk.files.text import read_json
from vactk.report.metrics_log import Curves, read_curves
from vactk.report.predictions import PredictedVideo, read_predictions

RESULT = "result.json"
CONFIG, PROVENANCE, CHECKPOINT = "config.yaml", "run.json", "model.safetensors"  # of a training run
EVALUATION = "evaluation.json"  # what an evaluation alone was made with: settings, checkpoint, versions


@dataclass(frozen=True)
class RunFolder:
    """The files of a run that a report is made of."""

    path: Path
    name: str
    rows: list[PredictedVideo]
    curves: Curves | None
    facts: dict[str, str]  # what was evaluated, and on what
    settings: dict[str, str]  # dotted name -> value
    versions: dict[str, str]


def read_run(path: Path) -> RunFolder:
    """Read the folder of a run, or of `vactk zeroshot --output`.

    Raises VactkError where it has no predictions.csv, or a file in it is damaged.
    """
    if not path.is_dir():
        raise VactkError(f"there is no folder '{path}'")
    rows = read_predictions(path)
    result, provenance, evaluation = (_json(path / name) for name in (RESULT, PROVENANCE, EVALUATION))
    segment: dict[str, Any] = [{}, *provenance.get("segments", [])][-1]
    settings = read_yaml(path / CONFIG) if (path / CONFIG).is_file() else evaluation.get("settings", {})
    return RunFolder(
        path=path,
        name=path.resolve().name,
        rows=rows,
        curves=read_curves(path),
        facts=dict(_facts(path, result, segment, evaluation)),
        settings=dict(_flat(settings)),
        versions=dict(_flat(segment.get("versions") or evaluation.get("versions") or {})),
    )


def _facts(
    path: Path, result: Mapping[str, Any], segment: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield what identifies a result: commands, data, weights, and their hashes."""
    command = segment.get("command") or evaluation.get("command")
    if command:
        yield "command", " ".join(map(str, command))
    if segment:
        yield "started", str(segment["started"])
    yield from _data(result)
    if (path / CHECKPOINT).is_file():
        yield "checkpoint, SHA-256", sha256(path / CHECKPOINT)
    for name, value in _flat(evaluation.get("model") or {}):
        yield f"model, {name}", value
    if git := segment.get("git"):
        yield "commit of vactk", f"{git['commit']}{', with changes' if git['changed'] else ''}"


def _data(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the videos that were used for something, and what chose the weights."""
    videos = result.get("videos") or {}
    for use in ("trained", "held_out"):
        if videos.get(use):
            yield f"videos {use.replace('_', ' ')}", _videos(videos[use])
    for tested in videos.get("tested", ()):
        yield "videos tested", _videos(tested)
    if "title" in result:
        yield "protocol", f"{result['protocol']}: {result['title']}; content {result['hash']}"
    if chosen := result.get("chosen"):
        yield "weights", f"step {chosen['step']}, by {chosen['by']}"


def _videos(described: Mapping[str, Any]) -> str:
    return f"{described['num_videos']:,} of {described['split']}; content {described['hash']}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a file; empty where there is no file."""
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise VactkError(f"'{path}' is damaged: it holds no JSON object")
    return value
