"""Everything that a training run is told, as one typed configuration."""

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


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How the loop runs: sizes, numbers, and what it writes when."""

    epochs: float = 10.0  # passes over the training videos
    batch_size: int = 32  # videos of one optimiser step, over all processes
    accumulate: int = 1  # pieces that a batch is cut into, one after another, to save memory
    eval_batch_size: int = 32  # videos, per process
    eval_every: float = 0.0  # epochs between evaluations; 0: only at the end
    save_every: float = 1.0  # epochs between saved states, from which --resume goes on
    log_every: int = 1  # steps between lines of metrics.jsonl
    seed: int = 0
    precision: Precision = "fp32"
    device: Device = "auto"
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
    gradient_checkpointing: bool = False  # saves memory, costs a second forward pass
    max_failed: float = 0.1  # share of unreadable videos that stops the run
    max_skipped: int = 20  # steps whose loss or gradient is not finite: left out, up to so many
    auto_accumulate: bool = False  # where memory runs out, twice as many pieces; the batch stays what it is
    deterministic: bool = False  # the same bits in every run on the same machine, at some cost on GPUs

    def __post_init__(self) -> None:
        if self.epochs <= 0 or self.batch_size < 1 or self.accumulate < 1 or self.eval_batch_size < 1:
            raise VactkError("epochs, batch_size, accumulate and eval_batch_size must be above 0")
        if self.batch_size % self.accumulate:
            raise VactkError(
                f"batch_size {self.batch_size} cannot be cut into {self.accumulate} equal pieces (accumulate)"
            )
        if self.save_every <= 0 or self.log_every < 1:
            raise VactkError("save_every and log_every must be above 0")
        if self.max_skipped < 0 or not 0 <= self.max_failed <= 1:
            raise VactkError("max_skipped must be at least 0, and max_failed a share from 0 to 1")
        if self.seed < 0:
            raise VactkError(f"seed must be at least 0, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run."""

    dataset: str = ""  # a name that vactk knows
    data_root: str = ""  # where the dataset's files are; empty: its usual place
    shots: int = 0  # training videos of each class, drawn by run.seed; 0: all
    start: str = ""  # a checkpoint to start from; empty: CLIP as it is
    descriptions: str = ""  # JSON lines, a CSV or a .pt with descriptions of the training videos
    templates: str = "video"  # sentences around class names: a named set, or one with {} for the class
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
    """`recipe` with batches no larger than the data, which can still be shared out."""
    run, unit = recipe.run, num_processes * recipe.run.accumulate
    if run.batch_size <= num_videos:
        return recipe
    fitting = max(unit, num_videos // unit * unit)
    return replace(recipe, run=replace(run, batch_size=min(run.batch_size, fitting)))
