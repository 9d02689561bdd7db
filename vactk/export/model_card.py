"""Write the model card of a published model: use, results, recipe, provenance, hashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import vactk
from vactk import config as settings
from vactk.export.metadata import InferenceSpec
from vactk.export.verify import ExportedFile
from vactk.files.hashing import sha256
from vactk.models.video_model import VideoModel

TAGS = ["clip", "video", "action-recognition", "zero-shot", "vactk"]
METRICS = ("top1", "top5", "harmonic_mean")


def model_card(
    model: VideoModel,
    inference: InferenceSpec,
    written: ExportedFile,
    notes: Sequence[str],
    folder: Path,
    apart: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the card in Markdown, with the hub's YAML header.

    `apart`: results of the CLIP that transformers reads, where it is not the video model.
    """
    is_transformers = written.frames_apart is not None
    head = {
        "library_name": "transformers" if is_transformers else "vactk",
        "pipeline_tag": "zero-shot-image-classification" if is_transformers else "video-classification",
        "tags": TAGS,
    }
    made = (
        "A CLIP for videos, made and exported with the Video-Action CLIP ToolKit "
        f"(vactk {vactk.__version__}): {_describe(model)}."
    )
    checked = (
        f"Largest difference to the model it was made of: {written.max_abs_diff:.2g} "
        f"(tolerance {written.tolerance:g})."
    )
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {inference.source.get('name', 'A video CLIP')}",
        made,
        *(f"- {note}" for note in notes),
        "## Use",
        _usage(is_transformers),
        _conditions(model, inference),
        "## Results",
        *_all_results(written, inference.source.get("results", ()), apart),
        "## Recipe",
        _recipe(inference.source.get("recipe")),
        "## Provenance",
        _provenance(inference.source, model.info.get("parents", ())),
        "## Files",
        _files((written.path, *written.more), folder),
        checked,
    ]
    return "\n\n".join(sections) + "\n"


def _describe(model: VideoModel) -> str:
    temporal = settings.to_dict(model.config)["temporal"]
    name = temporal["name"] if isinstance(temporal, Mapping) else temporal
    return f"backbone `{model.config.backbone.name}`, temporal module `{name}`"


def _usage(is_transformers: bool) -> str:
    blocks = ['```bash\nvactk zeroshot clips/ --labels "juggling,waving" --checkpoint FOLDER\n```']
    if is_transformers:
        blocks.append(
            "```python\nfrom transformers import CLIPModel\n\nmodel = CLIPModel.from_pretrained(FOLDER)\n```"
        )
    return "\n\n".join(blocks)


def _conditions(model: VideoModel, inference: InferenceSpec) -> str:
    data, templates = inference.data, inference.templates
    shown = ", ".join(f"`{template}`" for template in templates[:3])
    more = f" and {len(templates) - 3} more" if len(templates) > 3 else ""
    return (
        f"Meant for {data.num_frames} frames of a view and {data.views} view(s) of a video, sampling "
        f"`{settings.to_dict(data)['sampling']['name']}`, images of {model.backbone.image_size} pixels. "
        f"Sentences around class names: {shown}{more}."
    )


def _all_results(
    written: ExportedFile, results: Sequence[Mapping[str, Any]], apart: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return the results of what was written, by whom it is read."""
    if written.frames_apart is None or written.frames_apart.is_exact:
        return [_results(results)]
    measured = _results(apart) if apart else "Not measured: `vactk export --dataset NAME` does."
    return [
        f"As transformers reads it, a CLIP of single frames whose mean embedding has {written.frames_apart}:",
        measured,
        "As vactk reads it, with the video model's attention between frames:",
        _results(results),
    ]


def _results(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of results of `vactk zeroshot --json` and training, with the conditions of each."""
    rows = []
    for result in results:
        name = result.get("protocol") or result.get("dataset")
        metrics = {
            metric: result[metric] for metric in METRICS if isinstance(result.get(metric), int | float)
        }
        if name and metrics:
            numbers = ", ".join(f"{metric} {value:.2f}" for metric, value in metrics.items())
            conditions = ", ".join(
                f"{key} {result[key]}"
                for key in ("num_videos", "frames", "views", "templates")
                if key in result
            )
            rows.append(f"| {name} | {numbers} | {conditions} | {result.get('hash', '')} |")
    if not rows:
        return "None were given."
    return "\n".join(["| protocol | accuracy, % | conditions | content hash |", "|---|---|---|---|", *rows])


def _recipe(recipe: Any) -> str:
    if not recipe:
        return "Weights as they came; nothing was trained."
    return f"```yaml\n{yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)}```"


def _provenance(source: Mapping[str, Any], parents: Any) -> str:
    lines = [
        f"- {key}: {source[key]}" for key in ("checkpoint", "sha256", "step") if source.get(key) is not None
    ]
    lines += [f"- made from: {parent}" for parent in parents]
    return "\n".join(lines) or "- a plain backbone"


def _files(names: Sequence[str], folder: Path) -> str:
    rows = [
        f"| {name} | {(folder / name).stat().st_size:,} | `{sha256(folder / name)}` |"
        for name in names
        if (folder / name).is_file()
    ]
    return "\n".join(["| file | bytes | SHA-256 |", "|---|---|---|", *rows])
