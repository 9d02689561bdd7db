"""Adapters over time, before attention or before the MLP of a residual block, and on frame embeddings.

Tokens are (B*T, 1+H*W, D), frames of a video contiguous, the class token first. Every module here starts as
the identity, so that a new model equals its CLIP to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vactk.errors import VactkError
from vactk.models.temporal.block import TemporalBlock, chosen_layers


class STAdapter(nn.Module):
    """patches + up(dwconv(down(patches))), a convolution over time (T x 1 x 1) without activation.

    Open-VCLIP's `stadapt_zeroinit`, after ST-Adapter (Pan et al., NeurIPS 2022); the class token passes by.
    """

    def __init__(self, dim: int, width: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width)
        self.conv = TimeConv(width, kernel_size)
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """x (B*T, 1+H*W, D) -> the same shape."""
        patches = x[:, 1:]
        patches = patches + self.up(self.conv(self.down(patches), num_frames))
        return torch.cat([x[:, :1], patches], dim=1)


class TEDAdapter(nn.Module):
    """y = x + up(E) + [0 for the class token; Diff]: temporal enhancement and difference (M2-CLIP, section 3).

    E = dwconv over T of down(x), for all tokens; Diff = up2(dwconv 3x3 over space of down2(x_t - x_{t-1})), for
    patches only, where the frame before the first is the first itself. The convolutions start at zero, as do
    the biases that would pass by them.
    """

    def __init__(self, dim: int, width: int, grid: tuple[int, int], kernel_size: int = 3) -> None:
        super().__init__()
        self.grid = grid
        self.down = nn.Linear(dim, width)
        self.conv = TimeConv(width, kernel_size)
        self.up = nn.Linear(width, dim)
        self.diff_down = nn.Linear(dim, width)
        self.diff_conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.diff_up = nn.Linear(width, dim)
        zeros = (self.conv, self.diff_conv)
        for parameter in (*(p for m in zeros for p in m.parameters()), self.up.bias, self.diff_up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """x (B*T, 1+H*W, D), or (B*T, 1, D): the class token alone -> the same shape.

        Raises ValueError when there are patches and they do not fill the grid.
        """
        if x.shape[1] not in (1, 1 + self.grid[0] * self.grid[1]):
            raise ValueError(f"{x.shape[1]} tokens for a grid of {self.grid[0]}x{self.grid[1]} patches")
        if x.shape[1] == 1:
            return x + self.up(self.conv(self.down(x), num_frames))
        enhanced = self.conv(self.down(x), num_frames)  # (B*T, N, width)
        # of all tokens, though only patches are used: a slice of the wide x would be copied first
        changing = F.linear(x, self.diff_down.weight)[:, 1:]
        difference = F.pad(self._difference(changing, num_frames), (0, 0, 1, 0))  # none for the class token
        # both branches go up in one multiplication
        up = torch.cat([self.up.weight, self.diff_up.weight], dim=1)
        out = F.linear(torch.cat([enhanced, difference], dim=-1), up, self.up.bias)
        bias = F.pad(self.diff_up.bias.expand(x.shape[1] - 1, -1), (0, 0, 1, 0))  # (N, D)
        return x + out + bias

    def _difference(self, patches: Tensor, num_frames: int) -> Tensor:
        """Narrow patches -> their convolved change from the frame before. (B*T, H*W, width) -> the same shape"""
        frames = patches.unflatten(0, (-1, num_frames))  # (B, T, H*W, width)
        change = F.pad(frames[:, 1:] - frames[:, :-1], (0, 0, 0, 0, 1, 0))  # the first frame's is 0
        image = (change + self.diff_down.bias).flatten(0, 1).unflatten(1, self.grid)  # (B*T, H, W, width)
        # an image in channels-last: no copy, and the fast kernel
        return self.diff_conv(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)


class FrameAdapter(nn.Module):
    """f + up(dwconv over T of down(f)) on the embeddings of frames: M2-CLIP's output temporal adapter.

    The convolution starts at zero, as does the bias that would pass by it.
    """

    def __init__(self, dim: int, width: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width)
        self.conv = TimeConv(width, kernel_size)
        self.up = nn.Linear(width, dim)
        for parameter in (self.conv.weight, self.conv.bias, self.down.bias, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, frames: Tensor) -> Tensor:
        """frames (B, T, E) -> the same shape."""
        hidden = self.down(frames).flatten(0, 1)[:, None]  # (B*T, 1, width): every frame is one token
        return frames + self.up(self.conv(hidden, frames.shape[1])).view_as(frames)


class TimeConv(nn.Module):
    """A depthwise convolution over the frames of every token, zeros beyond both ends."""

    def __init__(self, width: int, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise VactkError(f"kernel_size must be odd, got {kernel_size}")
        bound = kernel_size**-0.5  # as nn.Conv1d with groups=width starts
        self.weight = nn.Parameter(torch.empty(width, 1, kernel_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """x (B*T, N, C) -> the same shape."""
        width, _, kernel_size = self.weight.shape
        # frames x tokens as an image, channels-last: it needs no copy, and costs a third of a Conv1d
        image = x.unflatten(0, (-1, num_frames)).permute(0, 3, 1, 2)  # (B, C, T, N)
        out = F.conv2d(image, self.weight[..., None], self.bias, padding=(kernel_size // 2, 0), groups=width)
        return out.permute(0, 2, 3, 1).flatten(0, 1)


class AdapterBlock(TemporalBlock):
    """Adapters before attention, before the MLP, or both."""

    def __init__(self, pre_attn: nn.Module | None, pre_mlp: nn.Module | None) -> None:
        super().__init__()
        self.pre_attn_adapter = pre_attn
        self.pre_mlp_adapter = pre_mlp

    def pre_attn(self, x: Tensor, num_frames: int) -> Tensor:
        return x if self.pre_attn_adapter is None else self.pre_attn_adapter(x, num_frames)

    def pre_mlp(self, x: Tensor, num_frames: int) -> Tensor:
        return x if self.pre_mlp_adapter is None else self.pre_mlp_adapter(x, num_frames)

    def unused_by_class_token(self) -> Iterator[nn.Parameter]:
        adapter = self.pre_mlp_adapter
        if isinstance(adapter, TEDAdapter):
            for module in (adapter.diff_down, adapter.diff_conv, adapter.diff_up):
                yield from module.parameters()


@dataclass(frozen=True, kw_only=True)
class FrameAdapterConfig:
    """The adapter on frame embeddings, or none."""

    enabled: bool = False
    width: int = 0  # bottleneck channels; 0: half of the embedding
    kernel_size: int = 3  # frames

    def build(self, dim: int) -> FrameAdapter | None:
        """The adapter for embeddings of `dim` channels. Raises VactkError when it cannot be built."""
        if self.width < 0 or self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise VactkError(
                f"the frame adapter needs a width of at least 0 and an odd kernel_size, "
                f"got {self.width} and {self.kernel_size}"
            )
        return FrameAdapter(dim, self.width or dim // 2, self.kernel_size) if self.enabled else None


@dataclass(frozen=True, kw_only=True)
class NoTemporal:
    """Frames apart, as CLIP sees them."""

    def build(self, dim: int, grid: tuple[int, int], num_blocks: int) -> nn.ModuleList:
        """A TemporalBlock for each of `num_blocks` residual blocks of width `dim`."""
        return nn.ModuleList(TemporalBlock() for _ in range(num_blocks))


@dataclass(frozen=True, kw_only=True)
class STAdapterConfig:
    """ST-Adapter before attention."""

    width: int = 0  # bottleneck channels; 0: half of the tower's width
    kernel_size: int = 3  # frames
    layers: tuple[int, ...] = ()  # blocks that carry an adapter, negative from the end; empty: all

    def build(self, dim: int, grid: tuple[int, int], num_blocks: int) -> nn.ModuleList:
        """A TemporalBlock for each of `num_blocks` residual blocks of width `dim`."""
        width, chosen = _checked(self, dim, num_blocks)
        return nn.ModuleList(
            AdapterBlock(STAdapter(dim, width, self.kernel_size), None) if i in chosen else TemporalBlock()
            for i in range(num_blocks)
        )


@dataclass(frozen=True, kw_only=True)
class TEDAdapterConfig:
    """M2-CLIP's TED-Adapter."""

    width: int = 0  # bottleneck channels; 0: half of the tower's width
    kernel_size: int = 3  # frames
    layers: tuple[int, ...] = ()  # blocks that carry adapters, negative from the end; empty: all
    placement: Literal["pre_mlp", "pre_attn", "both"] = "pre_mlp"  # "both" is the paper's 24x384

    def build(self, dim: int, grid: tuple[int, int], num_blocks: int) -> nn.ModuleList:
        """A TemporalBlock for each of `num_blocks` residual blocks of width `dim`."""
        width, chosen = _checked(self, dim, num_blocks)

        def adapter(hook: str) -> TEDAdapter | None:
            wanted = self.placement in (hook, "both")
            return TEDAdapter(dim, width, grid, self.kernel_size) if wanted else None

        return nn.ModuleList(
            AdapterBlock(adapter("pre_attn"), adapter("pre_mlp")) if i in chosen else TemporalBlock()
            for i in range(num_blocks)
        )


def _checked(config: STAdapterConfig | TEDAdapterConfig, dim: int, num_blocks: int) -> tuple[int, set[int]]:
    """The bottleneck width and the blocks that carry adapters. Raises VactkError when there are none."""
    if config.width < 0 or config.kernel_size < 1 or config.kernel_size % 2 == 0:
        raise VactkError(
            f"an adapter needs a width of at least 0 and an odd kernel_size, "
            f"got {config.width} and {config.kernel_size}"
        )
    return config.width or dim // 2, chosen_layers(config.layers, num_blocks)
