"""The model of the library: videos and sentences in, unit vectors of one space out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vactk.checkpoints import checkpoint
from vactk.config import nest, to_dict
from vactk.data.records import Record
from vactk.data.video_dataset import VideoDataset, eval_loader, released_sampling
from vactk.distributed import make_accelerator
from vactk.errors import VactkError, nearest
from vactk.evaluate.config import EvalConfig
from vactk.evaluate.embedding import embed_texts, embed_views
from vactk.evaluate.scoring import image_spec
from vactk.evaluate.setup import load_for_evaluation
from vactk.models.backbone import backbone_names
from vactk.models.video_model import TOWERS, VideoModel
from vactk.video.sampling import uniform_segments
from vactk.video.transforms import eval_transform

Video = str | Path | Tensor  # a file, or uint8 frames (T, 3, H, W)


@dataclass(frozen=True)
class Model(VideoModel):
    """A VideoModel that takes files, frames and sentences, by the settings stored with its checkpoint.

    It extends VideoModel, so every function that takes one takes it too, and stands above `models/`, which knows
    networks alone: reading videos belongs to the layers between.
    """

    evaluation: EvalConfig = field(default_factory=EvalConfig)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.video_clip.parameters()).device

    @property
    def settings(self) -> EvalConfig:
        """`evaluation`, on the kind of device that the weights are on."""
        return dataclasses.replace(self.evaluation, device="cpu" if self.device.type == "cpu" else "auto")

    def to(self, device: torch.device | str) -> Model:
        """Move all weights to `device`."""
        super().to(torch.device(device))
        return self

    def eval(self) -> Model:
        """Switch to evaluation mode, in which a loaded model is already."""
        self.train(False)
        return self

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """Return tokens (N, L) int64, padded and cut to the context length."""
        tokens: Tensor = self.backbone.tokenize(_texts(texts))
        return tokens

    def preprocess(self, frames: Tensor) -> Tensor:
        """Resize, crop and normalise uint8 frames (T, 3, H, W), 0 to 255 -> (crops, T, 3, size, size) float32."""
        return eval_transform(self.evaluation.data.transform, *image_spec(self))(_frames(frames))

    @torch.no_grad()
    def embed_text(self, texts: str | Sequence[str]) -> Tensor:
        """Embed sentences as they are, without templates -> (N, E) float32 on the CPU, unit norm.

        Sentences longer than the text tower's context are cut at the end of a sentence or word.
        """
        return embed_texts(self, _texts(texts), self.device).vectors

    @torch.no_grad()
    def embed_video(self, videos: Video | Sequence[Video]) -> Tensor:
        """Embed video files, or uint8 frames (T, 3, H, W) of any size -> (N, E) float32 on the CPU, unit norm.

        Frames of files are sampled by the model's settings. Of given frames, as many as the settings say are
        taken at even distances. Raises VideoError for a file that cannot be read.
        """
        items = list(videos) if isinstance(videos, list | tuple) else [videos]
        if not items:
            raise VactkError("the list of videos is empty: pass a path, uint8 frames, or a list of them")
        clips = {i: _frames(item) for i, item in enumerate(items) if not isinstance(item, str | Path)}
        files = {i: Path(item) for i, item in enumerate(items) if isinstance(item, str | Path)}
        was_training = self.video_clip.training
        self.train(False)
        accelerator = make_accelerator(self.settings.device, self.settings.precision)
        try:
            with accelerator.autocast():
                found = {**self._embed_files(files), **self._embed_clips(clips)}
        finally:
            self.train(was_training)
        return torch.stack([found[i] for i in range(len(items))])

    def _embed_files(self, files: Mapping[int, Path]) -> dict[int, Tensor]:
        if not files:
            return {}
        data = released_sampling(self.evaluation.data, "files")
        found: dict[int, Tensor] = {}
        records = [Record(video=file) for file in files.values()]
        keys = list(files)
        dataset = VideoDataset(records, data, image_spec(self), train=False)
        for batch in eval_loader(dataset, self.evaluation.batch_size):
            if batch.failures:
                raise VactkError(batch.failures[0].message)
            own = [keys[index] for index in batch.indices.tolist()]
            found |= dict(zip(own, self._embed(batch.video), strict=True))
        return found

    def _embed_clips(self, clips: Mapping[int, Tensor]) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        keys, size, count = list(clips), self.evaluation.batch_size, self.evaluation.data.num_frames
        for own in (keys[start : start + size] for start in range(0, len(keys), size)):
            chosen = [clips[i][uniform_segments(len(clips[i]), count).flatten()] for i in own]
            found |= dict(zip(own, self._embed(torch.stack(list(map(self.preprocess, chosen)))), strict=True))
        return found

    def _embed(self, views: Tensor) -> Tensor:
        """views (B, V, T, 3, H, W) -> (B, E)"""
        return embed_views(self, views.to(self.device)).cpu()


def settings_of(model: VideoModel) -> EvalConfig:
    """Return the settings to evaluate a model with: a `Model`'s own, else the defaults."""
    return model.settings if isinstance(model, Model) else EvalConfig()


def load_model(name: str | Path, *, device: str = "auto", settings: Mapping[str, Any] | None = None) -> Model:
    """Load a model in evaluation mode: anything `--checkpoint` takes, or a backbone such as "toy" or "ViT-B-16".

    `device`: "auto" for an accelerator if there is one, else as torch names it. `settings` override those of the
    checkpoint, by a recipe's keys: {"data.num_frames": 16}. Raises VactkError when there is no such model.
    """
    overrides = nest(settings or {})
    file: Path | None = Path(name)
    if isinstance(name, str) and name.lower().replace("/", "-") in map(str.lower, backbone_names()):
        overrides, file = nest({"model.backbone.name": name, **(settings or {})}), None
    elif not Path(name).exists():
        match = nearest(str(name), backbone_names())
        hint = f"; did you mean '{match}'?" if match else ""
        raise VactkError(f"'{name}' is neither a file or folder nor a backbone{hint}")
    model, evaluation = load_for_evaluation(file, overrides, {}, logging.getLogger("vactk").info)
    fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(VideoModel)}
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = "cpu" if accelerator is None else str(accelerator)
    return Model(**fields, evaluation=evaluation).to(device)


def save_model(model: VideoModel, path: str | Path, *, towers: Sequence[str] = TOWERS) -> None:
    """Save a model as a checkpoint: a .safetensors file that `load_model` and `--checkpoint` take.

    `towers` of CLIP are in it, all by default; those left out are taken from the backbone's own weights when
    it is loaded. What a loaded model's file said of its training is kept.
    """
    kept = {key: value for key, value in model.info.items() if key not in ("import", "format", "version")}
    if isinstance(model, Model):
        chosen = {name: to_dict(model.evaluation)[name] for name in ("data", "templates")}
        kept["recipe"] = {**kept.get("recipe", {}), **chosen}
    own = ("model", "heads", "towers", "frozen_fingerprint", "initial")
    info = {key: value for key, value in kept.items() if key not in own}
    checkpoint.save_model(Path(path), model, towers=tuple(towers), info=info)


def _texts(texts: str | Sequence[str]) -> list[str]:
    found: list[Any] = list(texts) if isinstance(texts, list | tuple) else [texts]
    if not found:
        raise VactkError("the list of texts is empty: pass a sentence, or a list of sentences")
    for text in found:
        if not isinstance(text, str):
            raise VactkError(f"a text is a string, got {type(text).__name__}")
        if not text.strip():
            raise VactkError("a text is empty: pass a sentence such as 'a person juggling'")
    return found


def _frames(frames: Any) -> Tensor:
    """Return `frames`, uint8 (T, 3, H, W). Raises VactkError, saying how they differ from that."""
    if not isinstance(frames, Tensor):
        raise VactkError(f"a video is a path or a tensor of frames, got {type(frames).__name__}")
    if frames.ndim != 4 or frames.shape[1] != 3 or 0 in frames.shape:
        raise VactkError(
            f"frames have shape (T, 3, H, W), got {tuple(frames.shape)}; pass several videos as a list"
        )
    if frames.dtype != torch.uint8:
        low, high = float(frames.min()), float(frames.max())
        raise VactkError(
            f"frames are uint8 from 0 to 255, got {frames.dtype} from {low:.3g} to {high:.3g}; "
            "frames that are normalised already go to model.video_clip.encode_video"
        )
    return frames.cpu()
