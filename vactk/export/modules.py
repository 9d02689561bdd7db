"""The modules that are exported: they take and return tensors only, and run for any number of frames.

They share the model's weights; nothing is copied.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vactk.models.attention import ResidualBlock
from vactk.models.heads import ClassHead
from vactk.models.temporal.adapters import AdapterBlock, TEDAdapter
from vactk.models.temporal.frame_attention import NeighbourAttention
from vactk.models.text_tower import TraceableTextTower
from vactk.models.video_clip import Similarity, VideoCLIP, pool_frames


class PaddedNeighbourAttention(NeighbourAttention):
    """NeighbourAttention as one formula for every frame, so that one graph serves any number of frames.

    Keys and values of zero stand beyond both ends. With `zeros` they take part as they are, as published;
    otherwise a mask hides them. A little more work than treating the ends apart, and the same result.
    """

    def attention(self, block: ResidualBlock, x: Tensor, num_frames: int, num_queries: int) -> Tensor:
        queries = x if num_queries == x.shape[1] else x[:, :num_queries]
        query, key, value = block.project_qkv(queries, x)
        num_tokens = key.shape[1]
        key, value = (self._near(x.unflatten(0, (-1, num_frames))) for x in (key, value))
        mask = None if self.zeros else self._inside(query, num_frames, num_tokens)
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return block.merge_heads(attended.transpose(1, 2))

    def _near(self, x: Tensor) -> Tensor:
        """The tokens of every frame's neighbours. (B, T, N, heads, C) -> (B*T, (2 window + 1) N, heads, C)"""
        num_frames = x.shape[1]
        padded = F.pad(x, (0, 0, 0, 0, 0, 0, self.window, self.window))
        shifts = range(2 * self.window + 1)
        return torch.cat([padded[:, i : i + num_frames] for i in shifts], dim=2).flatten(0, 1)

    def _inside(self, query: Tensor, num_frames: int, num_tokens: int) -> Tensor:
        """True where a neighbour's token is one of the video's: (B*T, 1, 1, (2 window + 1) N)."""
        near = torch.arange(-self.window, self.window + 1, device=query.device)
        frame = torch.arange(num_frames, device=query.device)[:, None] + near  # (T, 2 window + 1)
        inside = ((frame >= 0) & (frame < num_frames)).repeat_interleave(num_tokens, dim=1)
        num_videos = query.shape[0] // num_frames
        return inside.expand(num_videos, -1, -1).flatten(0, 1)[:, None, None]


class GatheredTEDAdapter(TEDAdapter):
    """TEDAdapter that takes the frames before by index: slices one frame shorter would tie a graph to T > 2."""

    def _difference(self, patches: Tensor, num_frames: int) -> Tensor:
        frames = patches.unflatten(0, (-1, num_frames))  # (B, T, H*W, width)
        before = (torch.arange(num_frames, device=frames.device) - 1).clamp(min=0)
        image = (frames - frames[:, before] + self.diff_down.bias).flatten(0, 1)  # (B*T, H*W, width)
        image = image.unflatten(1, self.grid).permute(0, 3, 1, 2)  # (B*T, width, H, W)
        return self.diff_conv(image).permute(0, 2, 3, 1).flatten(1, 2)


class VideoEncoder(nn.Module):
    """Videos as embeddings; their dot product with a text's of unit norm is the similarity (`pool_frames`)."""

    def __init__(self, clip: VideoCLIP, similarity: Similarity) -> None:
        super().__init__()
        self.clip = vision_only(clip)
        self.similarity = similarity

    def forward(self, video: Tensor) -> Tensor:
        """video (B, T, 3, H, W), normalised colours -> (B, E)"""
        return pool_frames(self.clip.video_features(video).frames, self.similarity)


class TextEncoder(nn.Module):
    """Texts as embeddings of unit norm."""

    def __init__(self, clip: VideoCLIP) -> None:
        super().__init__()
        self.is_causal = clip.text.is_causal
        self.tower = TraceableTextTower(clip.text) if self.is_causal else clip.backbone

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, L) int64 -> (B, E); where the tower is causal, L need only hold the longest text."""
        embed = self.tower if self.is_causal else cast(Any, self.tower).encode_text
        return F.normalize(embed(tokens), dim=-1)


class Classifier(nn.Module):
    """Videos as probabilities of given classes, whose embeddings are part of it.

    `answer` is "similarity" to the classes' words, "class_head", or their "ensemble" (M2-CLIP, section 3.4).
    """

    def __init__(
        self,
        clip: VideoCLIP,
        similarity: Similarity,
        classes: Tensor,
        answer: str = "similarity",
        head: ClassHead | None = None,
    ) -> None:
        """classes (C, E) of unit norm."""
        super().__init__()
        self.clip = vision_only(clip)
        self.similarity = similarity
        self.answer = answer
        self.head = head if answer != "similarity" else None
        # the scale is part of the classes: one multiplication for a file to get right
        self.register_buffer("classes", (clip.logit_scale * classes).detach().clone())

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """video (B, T, 3, H, W), normalised colours -> logits and probabilities, each (B, C)"""
        features = self.clip.video_features(video)
        similar = pool_frames(features.frames, self.similarity) @ cast(Tensor, self.classes).T
        if self.head is None:
            return similar, similar.softmax(dim=-1)
        by_head = self.head(features.pooled)
        if self.answer == "class_head":
            return by_head, by_head.softmax(dim=-1)
        probabilities = (similar.softmax(dim=-1) + by_head.softmax(dim=-1)) / 2
        return probabilities.log(), probabilities


def vision_only(clip: VideoCLIP) -> VideoCLIP:
    """The modules that `video_features` needs, in a form that can be exported."""
    temporal = nn.ModuleList(_exportable(block) for block in clip.temporal)
    return VideoCLIP(clip.vision.alone(), temporal, nn.ModuleList(), clip.frame_adapter).eval()


def _exportable(block: nn.Module) -> nn.Module:
    if type(block) is NeighbourAttention:
        return PaddedNeighbourAttention(block.window, zeros=block.zeros)
    if type(block) is AdapterBlock:
        return AdapterBlock(
            _exportable_adapter(block.pre_attn_adapter), _exportable_adapter(block.pre_mlp_adapter)
        )
    return block


def _exportable_adapter(adapter: nn.Module | None) -> nn.Module | None:
    if type(adapter) is not TEDAdapter:
        return adapter
    width, _, kernel_size = adapter.conv.weight.shape
    with torch.device("meta"):
        gathered = GatheredTEDAdapter(adapter.down.in_features, width, adapter.grid, kernel_size)
    gathered.load_state_dict(adapter.state_dict(), assign=True)
    return gathered
