"""Vision towers: how each family embeds, runs its blocks and pools. No other file names what a tower is built of.

Another family is another class and an entry of VISION_TOWERS.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vactk.errors import VactkError
from vactk.models.attention import OpenClipBlock, ResidualBlock, find_layer
from vactk.models.temporal.block import TemporalBlock


class VisionTower(Protocol):
    """The vision tower of an image CLIP, whose weights stay where they are. B images, N tokens, D width."""

    width: int  # D
    embed_dim: int  # E, of the space that texts share
    grid: tuple[int, int]  # patches in height and width
    image_size: tuple[int, int]  # pixels in height and width
    blocks: Sequence[ResidualBlock]
    reads_class_token: bool  # whether `pool` and `pool_video` read token 0 of the last block and no other
    can_fold: bool  # whether `fold_into_output` applies

    def embed(self, images: Tensor) -> Tensor:
        """Tokens before the first block, the class token first. (B, 3, H, W) -> (B, N, D)"""

    def pool(self, x: Tensor) -> Tensor:
        """Embeddings of the tokens after the last block. (B, N, D) -> (B, E), not normalised"""

    def pool_video(self, x: Tensor, num_frames: int) -> Tensor:
        """One feature for each video, before the projection to E. (B*T, N, D) -> (B, D)"""

    def keep_all_patches(self) -> None:
        """Switch off the random dropping of patches: temporal modules need every patch of every frame."""

    def fold_into_output(self, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        """The tensors of CLIP, by name, that map an embedding e to e + e weight^T + bias. (E, E), (E,)"""

    def alone(self) -> nn.Module:
        """A module that stands for the CLIP and holds this tower's weights only."""


class OpenClipViT:
    """The VisionTransformer of open_clip, OpenAI's CLIPs among them."""

    LAYERS = re.compile(r"transformer\.resblocks\.(\d+)\.")
    BELOW = re.compile(r"\b(conv1\.|class_embedding|positional_embedding|ln_pre\.)")

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.width: int = visual.transformer.width
        self.embed_dim: int = visual.output_dim
        self.blocks: Sequence[ResidualBlock] = [
            OpenClipBlock(block) for block in visual.transformer.resblocks
        ]
        self.reads_class_token: bool = visual.attn_pool is None and visual.pool_type == "tok"
        self.can_fold = visual.proj is not None and self.reads_class_token
        height, width = visual.grid_size
        self.grid = (int(height), int(width))
        height, width = visual.image_size
        self.image_size = (int(height), int(width))

    @staticmethod
    def fits(visual: Any) -> bool:
        """Whether `visual` is a tower of this family."""
        return hasattr(visual, "conv1") and hasattr(visual, "class_embedding")

    def embed(self, images: Tensor) -> Tensor:
        return self.visual._embeds(images)

    def pool(self, x: Tensor) -> Tensor:
        pooled, _ = self.visual._pool(x)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    def pool_video(self, x: Tensor, num_frames: int) -> Tensor:
        """The final norm of the mean class token (M2-CLIP); no norm where that belongs to attention pooling."""
        class_token = x[:, 0].unflatten(0, (-1, num_frames)).mean(dim=1)  # (B, D)
        return self.visual.ln_post(class_token) if self.visual.attn_pool is None else class_token

    def keep_all_patches(self) -> None:
        self.visual.patch_dropout = nn.Identity()

    def fold_into_output(self, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        """With z the output of the final norm, e = z P becomes z P (1 + weight^T) + bias.

        The norm's bias takes the shift that the new projection makes `bias`. Computed in double precision.
        """
        projection = self.visual.proj.double()  # (D, E)
        projection = projection + projection @ weight.double().T
        shift = bias.double() @ torch.linalg.pinv(projection)  # (D,)
        return {
            "visual.proj": projection.float(),
            "visual.ln_post.bias": (self.visual.ln_post.bias.double() + shift).float(),
        }

    def alone(self) -> nn.Module:
        clip = nn.Module()
        clip.visual = self.visual
        return clip


VISION_TOWERS = {"open_clip": OpenClipViT}


def vision_tower(clip: nn.Module) -> VisionTower:
    """The vision tower of an image CLIP. Raises VactkError for one of no known family."""
    visual = clip.visual
    for family in VISION_TOWERS.values():
        if family.fits(visual):
            return family(visual)
    raise VactkError(
        f"a vision tower of type {type(visual).__name__} cannot carry temporal modules; "
        f"known are those of {', '.join(VISION_TOWERS)}"
    )


def layer_number(name: str) -> int | None:
    """The block that a parameter of a vision tower belongs to, by its name: -1 below all, None above them."""
    return find_layer(name, {family.LAYERS: family.BELOW for family in VISION_TOWERS.values()})


def residual_block(
    block: ResidualBlock, added: TemporalBlock, x: Tensor, num_frames: int, num_queries: int
) -> Tensor:
    """Run a residual block with the hooks of `added`. x (B*T, N, D) -> (B*T, num_queries, D)"""
    x = added.pre_attn(x, num_frames)
    attended = added.attention(block, block.norm_attention(x), num_frames, num_queries)
    x = added.pre_mlp(x[:, :num_queries] + block.scale_attention(attended), num_frames)
    return x + block.mlp(x)
