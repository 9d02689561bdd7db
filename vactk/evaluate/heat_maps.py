"""Where in a video an answer comes from: attention of the last block, weighted by the answer's gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vactk.evaluate.classifier import Scorer
from vactk.models.attention import ResidualBlock
from vactk.models.video_model import VideoModel

METHOD = (
    "Above, frames as the model saw them; below, how much each patch speaks for the answer rather than for the "
    "other labels: the attention that the last block pays to it, times the gradient of the answer's score, "
    "positive parts, mean over heads (the last layer of Chefer, Gur and Wolf, ICCV 2021). The brightest patch of "
    "a video has the most."
)
SHOWN_FRAMES = 8
SIDE = 112  # pixels of a frame
HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # as matplotlib's inferno


class RecordingBlock:
    """A residual block that keeps the values of its attention, where a graph for gradients begins."""

    def __init__(self, block: ResidualBlock) -> None:
        self.block = block
        self.values = torch.empty(0)  # (B, K, heads, D / heads)
        self.norm_attention = block.norm_attention
        self.merge_heads = block.merge_heads
        self.scale_attention = block.scale_attention
        self.mlp = block.mlp

    def project_qkv(self, queries: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As the block's own."""
        query, key, value = self.block.project_qkv(queries, context)
        self.values = value.detach().requires_grad_()
        return query, key, self.values


def heat_map(model: VideoModel, video: Tensor, scorer: Scorer, answer: int) -> Tensor:
    """Return how much each patch speaks for an answer. video (T, 3, H, W), normalised -> (T, rows, columns), 0 to 1

    With A the attention of the queries to a patch, the gradient of A is that of attention's result times the
    patch's value: the sum of A times its gradient is the value times its own gradient, over all frames that attend.
    """
    tower = model.video_clip.vision
    last = RecordingBlock(tower.blocks[-1])
    with frozen(model), torch.enable_grad():
        features = model.video_clip.video_features(video[None], [*tower.blocks[:-1], last])
        logits = scorer(features)[0].float()  # (C,)
        (gradient,) = torch.autograd.grad(logits[answer] - logits.mean(), last.values)
    rows, columns = tower.grid
    patches = slice(1, 1 + rows * columns)  # the class token comes first, messages between frames last
    per_head = (gradient * last.values.detach()).sum(dim=-1)[:, patches]  # (T, rows * columns, heads)
    found = per_head.clamp(min=0).mean(dim=-1).unflatten(1, (rows, columns))
    return (found / found.max().clamp(min=1e-12)).cpu()


@contextlib.contextmanager
def frozen(model: VideoModel) -> Iterator[None]:
    """Keep the model in evaluation mode, its weights without gradients."""
    was_training = model.video_clip.training
    trained = [weight for weight in model.module_dict().parameters() if weight.requires_grad]
    model.train(False)
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        model.train(was_training)
        for weight in trained:
            weight.requires_grad_(True)


def draw_heat_map(frames: Tensor, heat: Tensor) -> Image.Image:
    """Draw frames (T, 3, H, W), 0 to 1, above the same frames with heat (T, rows, columns), 0 to 1."""
    chosen = np.linspace(0, len(frames) - 1, min(SHOWN_FRAMES, len(frames))).round().astype(int).tolist()
    sheet = Image.new("RGB", (len(chosen) * (SIDE + 2) - 2, 2 * SIDE + 2), "white")
    points = np.linspace(0, 1, len(HEAT))
    for column, place in enumerate(chosen):
        pixels = (255 * frames[place].clamp(0, 1)).byte().permute(1, 2, 0).numpy()
        frame = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        values = Image.fromarray(heat[place].numpy()).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        level = np.clip(np.asarray(values), 0, 1)
        weight = level[..., None] ** 0.6  # so that little heat can be seen
        color = np.stack([np.interp(level, points, [shade[c] for shade in HEAT]) for c in range(3)], axis=-1)
        mixed = (1 - weight) * 0.8 * np.asarray(frame.convert("L"))[..., None] + weight * color
        sheet.paste(frame, (column * (SIDE + 2), 0))
        sheet.paste(Image.fromarray(mixed.astype(np.uint8)), (column * (SIDE + 2), SIDE + 2))
    return sheet
