"""Settings of commands that read videos without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vactk.config import build
from vactk.data.config import DataConfig
from vactk.errors import VactkError
from vactk.text.templates import choose_templates

Precision = Literal["auto", "fp32", "bf16", "fp16"]  # auto: bf16 on an accelerator that supports it
Device = Literal["auto", "cpu"]  # auto: an accelerator if there is one

_RECIPE_KEYS = {"batch_size": "eval_batch_size", "device": "device", "precision": "precision"}  # under `run`


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How videos are read and compared with text, and on what device."""

    data: DataConfig = field(default_factory=DataConfig)
    templates: str = "video"  # sentences around class names: a named set, or one with {} for the class
    batch_size: int = 32  # videos, per process
    device: Device = "auto"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        choose_templates(self.templates)
        if self.batch_size < 1:
            raise VactkError(f"the batch size must be at least 1, got {self.batch_size}")

    @property
    def prompts(self) -> tuple[str, ...]:
        """The sentences that `templates` names."""
        return choose_templates(self.templates)


def eval_config(settings: Mapping[str, Any]) -> EvalConfig:
    """Build an EvalConfig from the settings of a recipe; what only training reads is ignored."""
    run = settings.get("run", {})
    values = {name: settings[name] for name in ("data", "templates") if name in settings}
    values |= {name: run[key] for name, key in _RECIPE_KEYS.items() if key in run}
    return build(EvalConfig, values)
