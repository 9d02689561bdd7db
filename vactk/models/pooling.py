"""What of a video's frames is compared with text."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Similarity = Literal["video", "frames"]


def pool_frames(frames: Tensor, similarity: Similarity) -> Tensor:
    """What the similarity to a text is taken with, by a dot product. frames (B, T, E) -> (B, E)

    "video": the mean embedding, at unit norm (M2-CLIP). "frames": the mean of embeddings of unit norm, so that
    the dot product is the mean over frames of their cosine similarities (Open-VCLIP).
    """
    if similarity == "video":
        return F.normalize(frames.mean(dim=1), dim=-1)
    return F.normalize(frames, dim=-1).mean(dim=1)
