"""The temporal modules by name."""

from __future__ import annotations

from typing import Any

from vactk.models.frame_attention import CrossFrameAttentionConfig, NeighbourAttentionConfig
from vactk.models.temporal import NoTemporal, STAdapterConfig, TEDAdapterConfig

TemporalConfig = (
    NoTemporal | NeighbourAttentionConfig | CrossFrameAttentionConfig | STAdapterConfig | TEDAdapterConfig
)

TEMPORAL: dict[str, Any] = {
    "none": NoTemporal,
    "neighbour_attention": NeighbourAttentionConfig,
    "cross_frame_attention": CrossFrameAttentionConfig,
    "st_adapter": STAdapterConfig,
    "ted_adapter": TEDAdapterConfig,
}
