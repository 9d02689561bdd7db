"""The temporal modules by name."""

from __future__ import annotations

from typing import Any

from vactk.models.temporal.adapters import NoTemporal, STAdapterConfig, TEDAdapterConfig
from vactk.models.temporal.frame_attention import CrossFrameAttentionConfig, NeighbourAttentionConfig

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
