"""An image CLIP that takes videos: a stock open_clip model, and beside it the modules that were added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vactk.models.attention import ResidualBlock
from vactk.models.temporal.adapters import FrameAdapter
from vactk.models.temporal.block import TemporalBlock
from vactk.models.text_tower import TextTower
from vactk.models.vision_tower import VisionTower, residual_block, vision_tower


class VideoFeatures(NamedTuple):
    """Outputs of the vision tower for B videos of T frames."""

    frames: Tensor  # (B, T, E): every frame's embedding, not normalised
    pooled: Tensor  # (B, D): the tower's `pool_video`, before the projection into CLIP's space


class VideoCLIP(nn.Module):
    """`backbone`, an image CLIP, keeps its parameter names; beside it stands what was added to it.

    `temporal` holds a TemporalBlock for each block of the vision tower, `text_adapters` a TextBlock for each
    block of the text tower, `frame_adapter` works on the frames' embeddings. The number of frames is an
    argument of every call: a model trained on 8 frames takes 32.
    """

    def __init__(
        self,
        backbone: nn.Module,
        temporal: nn.ModuleList,
        text_adapters: nn.ModuleList | None = None,
        frame_adapter: FrameAdapter | None = None,
        *,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.temporal = temporal
        self.text_adapters = TextTower(backbone).added if text_adapters is None else text_adapters
        self.frame_adapter = frame_adapter
        self.gradient_checkpointing = gradient_checkpointing

    @property
    def logit_scale(self) -> Tensor:
        """The factor on cosine similarities, a scalar of about 100."""
        return cast(Tensor, self.backbone.logit_scale).exp()

    @property
    def vision(self) -> VisionTower:
        """The vision tower, without what was added to it."""
        return vision_tower(self.backbone)

    @property
    def text(self) -> TextTower:
        """The text tower with its adapters."""
        return TextTower(self.backbone, self.text_adapters)

    def unused_parameters(self) -> Iterator[nn.Parameter]:
        """Added parameters that no output depends on, however they are set."""
        if self.vision.reads_class_token:
            yield from cast(TemporalBlock, self.temporal[-1]).unused_by_class_token()

    def encode_video(self, video: Tensor) -> Tensor:
        """The mean of a video's frame embeddings. video (B, T, 3, H, W), normalised colours -> (B, E)"""
        return self.video_features(video).frames.mean(dim=1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """tokens (B, L) int64 -> (B, E), not normalised, as open_clip's `encode_text`."""
        return self.text.encode(tokens)

    def video_features(self, video: Tensor, blocks: Sequence[ResidualBlock] | None = None) -> VideoFeatures:
        """video (B, T, 3, H, W), normalised colours -> frames (B, T, E) and pooled (B, D).

        `blocks` stand for the tower's own, such as ones that keep what passes through them.
        """
        tower, num_frames = self.vision, video.shape[1]
        blocks = blocks or tower.blocks
        x = tower.embed(video.flatten(0, 1))  # (B*T, N, D)
        last = len(blocks) - 1
        for number, (block, added) in enumerate(zip(blocks, self.temporal, strict=True)):
            num_queries = 1 if number == last and tower.reads_class_token else x.shape[1]
            x = self._run_block(block, cast(TemporalBlock, added), x, num_frames, num_queries)
        frames = tower.pool(x).unflatten(0, (-1, num_frames))  # (B, T, E)
        if self.frame_adapter is not None:
            frames = self.frame_adapter(frames)
        return VideoFeatures(frames, tower.pool_video(x, num_frames))

    def _run_block(
        self, block: ResidualBlock, added: TemporalBlock, x: Tensor, num_frames: int, num_queries: int
    ) -> Tensor:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(residual_block, block, added, x, num_frames, num_queries, use_reentrant=False)
        return residual_block(block, added, x, num_frames, num_queries)


Similarity = Literal["video", "frames"]


def pool_frames(frames: Tensor, similarity: Similarity) -> Tensor:
    """Pool frame embeddings to the vector whose dot product with a text's is the similarity. (B, T, E) -> (B, E)

    "video": the mean embedding, at unit norm (M2-CLIP). "frames": the mean of embeddings of unit norm, so that
    the dot product is the mean over frames of their cosine similarities (Open-VCLIP).
    """
    if similarity == "video":
        return F.normalize(frames.mean(dim=1), dim=-1)
    return F.normalize(frames, dim=-1).mean(dim=1)
