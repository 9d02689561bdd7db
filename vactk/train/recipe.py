"""The recipe: all settings of a training run as one typed configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from vactk.data.config import DataConfig
from vactk.errors import VactkError
from vactk.evaluate.config import Device, EvalConfig, Precision
from vactk.models.video_model import ModelConfig
from vactk.text.templates import choose_templates
from vactk.train.interpolated_weights import InterpolatedConfig
from vactk.train.optim import OptimConfig
from vactk.train.task import TaskConfig
from vactk.train.weight_averaging import AverageConfig

MAX_HELD_OUT = 0.9


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of the training loop."""

    epochs: float = 10.0  # passes over the training videos
    min_steps: int = 0  # optimiser steps to take at least, in more epochs if videos are few; 0: epochs decide
    batch_size: int = 32  # videos per optimiser step, over all processes
    accumulate: int = 1  # micro-batches per batch, one after another, to save memory
    eval_batch_size: int = 32  # videos per process
    # draw each class equally often, not each video: "auto" does so where classes are uneven
    balance: Literal["never", "always", "auto"] = "never"
    eval_every: float = 0.0  # epochs between evaluations; 0: only at the end
    evaluations: int = 0  # evaluations between steps, evenly spaced; 0: eval_every decides
    patience: int = 0  # evaluations without a better one after which training stops; 0: it goes on
    # weights to end with: "last", or "best" of those evaluated during training and the last, by held-out videos
    keep: Literal["last", "best"] = "last"
    # epochs between saved states, from which --resume continues; 0: before evaluations and at the end alone
    save_every: float = 1.0
    log_every: int = 1  # steps between lines of metrics.jsonl
    seed: int = 0
    precision: Precision = "fp32"
    device: Device = "auto"
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
    gradient_checkpointing: bool = False  # less memory for a second forward pass
    max_failed: float = 0.1  # share of unreadable videos above which the run stops
    max_skipped: int = 20  # limit of steps skipped because loss or gradient is not finite
    auto_accumulate: bool = False  # double accumulate where memory runs out
    deterministic: bool = False  # the same bits in every run on the same machine; slower on GPUs

    def __post_init__(self) -> None:
        if self.epochs <= 0 or self.batch_size < 1 or self.accumulate < 1 or self.eval_batch_size < 1:
            raise VactkError("epochs, batch_size, accumulate and eval_batch_size must be above 0")
        if self.batch_size % self.accumulate:
            raise VactkError(f"batch_size {self.batch_size} is not divisible by accumulate={self.accumulate}")
        if self.save_every < 0 or self.log_every < 1:
            raise VactkError("save_every must be at least 0, and log_every above 0")
        if self.min_steps < 0 or self.evaluations < 0 or self.patience < 0:
            raise VactkError("min_steps, evaluations and patience must be at least 0")
        if self.max_skipped < 0 or not 0 <= self.max_failed <= 1:
            raise VactkError("max_skipped must be at least 0, and max_failed a share from 0 to 1")
        if self.seed < 0:
            raise VactkError(f"seed must be at least 0, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a training run."""

    dataset: str = ""  # name of a dataset, or the path of one's own
    data_root: str = ""  # folder of the dataset's files; empty: its default location
    shots: int = 0  # training videos per class, sampled with run.seed; 0: all
    # share of each class's training videos kept for evaluations during training, whole recordings, by run.seed
    held_out: float = 0.0
    start: str = ""  # a checkpoint to start from; empty: CLIP as it is
    descriptions: str = ""  # file with descriptions of the training videos: JSON lines, CSV or .pt
    templates: str = "video"  # prompts around class names: a named set, or a sentence with {} for the class
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    interpolated: InterpolatedConfig = field(default_factory=InterpolatedConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        choose_templates(self.templates)
        if self.shots < 0:
            raise VactkError(f"shots must be at least 0, got {self.shots}")
        if not 0 <= self.held_out <= MAX_HELD_OUT:
            raise VactkError(f"held_out must be a share from 0 to {MAX_HELD_OUT}, got {self.held_out}")
        if self.run.keep == "best" and not self.held_out:
            raise VactkError(
                "run.keep=best chooses by held-out training videos: set held_out, such as to 0.05"
            )
        if self.run.patience and self.run.keep != "best":
            raise VactkError("run.patience counts evaluations since the best one: set run.keep=best")
        if self.task.needs_classes:
            return
        if self.shots:
            raise VactkError(f"shots are counted per class, and captions have none: shots={self.shots}")
        if self.run.balance == "always":
            raise VactkError("run.balance=always draws classes equally often, and captions have none")
        if (self.run.eval_every or self.run.evaluations) and not self.held_out:
            raise VactkError(
                "captions are evaluated during training on held-out videos, never on the test set: set held_out, "
                "such as to 0.05, or run.eval_every=0"
            )

    @property
    def evaluation(self) -> EvalConfig:
        """The settings of the evaluations during and after training."""
        run = self.run
        return EvalConfig(
            data=self.data,
            templates=self.templates,
            batch_size=run.eval_batch_size,
            device=run.device,
            precision=run.precision,
        )


def fit_batch(recipe: Recipe, num_videos: int, num_processes: int) -> Recipe:
    """Return `recipe` with batches no larger than the data, which still divide over processes and micro-batches."""
    run, unit = recipe.run, num_processes * recipe.run.accumulate
    if run.batch_size <= num_videos:
        return recipe
    fitting = max(unit, num_videos // unit * unit)
    return replace(recipe, run=replace(run, batch_size=min(run.batch_size, fitting)))
