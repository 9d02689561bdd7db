"""Training: a task, its optimiser and its data, and the steps from any one to the last."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vactk.data.video_dataset import Batch, ReadError, VideoDataset
from vactk.distributed import Accelerator, gather_object, make_accelerator, on_any_process
from vactk.errors import VactkError, first_line
from vactk.models.video_model import VideoModel
from vactk.train.batch_feed import BatchFeed
from vactk.train.forward_backward import ForwardBackward
from vactk.train.fsdp import (
    check_sharding,
    clip_sharded_gradients,
    is_sharded,
    keep_scalars_whole,
    local_shard,
)
from vactk.train.interpolated_weights import Anchor
from vactk.train.optim import build_optimizer, parameter_groups, set_lr
from vactk.train.recipe import Recipe, RunConfig
from vactk.train.schedule import TrainSchedule
from vactk.train.stability import MoreMicroBatchesError, SkippedStep, is_out_of_memory, memory_advice
from vactk.train.state import TrainProgress, TrainState
from vactk.train.task import VideoTextTask
from vactk.train.weight_averaging import WeightAverage


@dataclass(frozen=True)
class StepResult:
    """A step that was taken, or skipped because its loss or gradient was not finite."""

    step: int  # steps done, this one included
    metrics: dict[str, float]  # a line of metrics.jsonl
    skipped: SkippedStep | None = None


class Trainer:
    """A task, its optimiser and its data, ready to continue from `progress.step`."""

    def __init__(
        self,
        recipe: Recipe,
        model: VideoModel,
        task: VideoTextTask,
        dataset: VideoDataset,
        *,
        originals: Mapping[str, Tensor],
        logs: Path,
        message: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Prepare the training of `task`, whose modules are those of `model`.

        `originals` has, by their names in files, the original weights that are not in the model now; trackers
        write to the folder `logs`; `message` shows a line to the user.
        """
        self.recipe = recipe
        self.model = model
        self.dataset = dataset
        self.message = message
        self.accelerator = _accelerator(recipe.run, logs)
        _check_batch_size(recipe.run, self.accelerator.num_processes)
        vision = model.video_clip.vision
        self.schedule = TrainSchedule(recipe, len(dataset), vision.width * len(vision.blocks))
        self.progress = TrainProgress(micro_batches=recipe.run.accumulate)
        self.feed = BatchFeed(dataset, recipe.run, self.accelerator)
        self.modules = model.module_dict()
        self._prepare(task)
        named = dict(self.modules.named_parameters())
        # the weights as they are before a saved state is loaded
        anchor = Anchor(named.items(), originals) if recipe.interpolated.weight else None
        self.passes = ForwardBackward(
            self.task, self.accelerator, recipe, anchor, image_size=dataset.image.size
        )
        trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
        self.average = WeightAverage(trained) if self.schedule.averaged_steps else None
        self.state = TrainState(
            self.modules, self.optimizer, self.accelerator, self.average, self.progress, recipe.task.towers
        )

    def steps(self) -> Generator[StepResult, None, None]:
        """Take the steps up to the last, and yield the result of each. Close it, which ends its workers.

        Raises VactkError when weights are not finite or memory runs out; Stopped between steps, on all
        processes, where one of them has received a signal.
        """
        self.task.train()
        # gradients of depthwise convolutions have another layout, in a dimension of size 1
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        total_steps = self.schedule.total_steps
        while self.progress.step < total_steps:
            steps = range(self.progress.step, total_steps)
            with contextlib.closing(self.feed.batches(steps, self.progress.micro_batches)) as batches:
                while self.progress.step < total_steps and (result := self._try_step(batches)):
                    yield result

    def _prepare(self, task: VideoTextTask) -> None:
        groups = parameter_groups(self.modules.named_parameters(), self.recipe.optim)
        if not groups:
            raise VactkError("nothing is trained: choose a temporal module, a class head or task.towers")
        task.to(self.accelerator.device)
        optimizer = build_optimizer(groups, self.recipe.optim)
        check_sharding(self.accelerator)
        keep_scalars_whole(self.accelerator, task)
        self.task, self.optimizer = self.accelerator.prepare(task, optimizer)

    def _try_step(self, batches: Iterator[Batch]) -> StepResult | None:
        """Take a step; None where memory ran out, and the step is to be taken again in more micro-batches."""
        started = time.perf_counter()
        try:
            result = self._step(batches)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        else:
            throughput = self.feed.throughput
            throughput.steps_s += time.perf_counter() - started
            self.progress.step += 1
            if self.average is not None and self.progress.step in self.schedule.averaged_steps:
                self.average.update()
            return replace(result, metrics={**result.metrics, **throughput.rates()})
        self._split_further(reason)  # outside of `except`, which holds on to the memory of the step
        return None

    def _step(self, batches: Iterator[Batch]) -> StepResult:
        progress = self.progress
        lr = self.schedule.lr(progress.step)
        set_lr(self.optimizer, lr)
        losses = self.passes.run(progress.step, batches, progress.micro_batches)
        if losses.any_failures:
            self._count_failures(losses.failures)
        norm, loss = self._clip_gradients(), losses.means["loss"]
        settings = {"lr": lr} if losses.alpha is None else {"alpha": losses.alpha, "lr": lr}
        # a gradient scaler finds its scale by infinite gradients, and skips their steps itself
        if math.isfinite(loss) and (self.accelerator.scaler is not None or math.isfinite(norm)):
            self.optimizer.step()
            self.optimizer.zero_grad()
            progress.skipped_in_a_row = 0
            return StepResult(progress.step + 1, {**losses.means, **settings, "grad_norm": norm})
        self.optimizer.zero_grad()
        self._check_weights()
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        places = sorted(gather_object(losses.places))
        skipped = SkippedStep(
            progress.step + 1, loss, norm, places, progress.skipped, progress.skipped_in_a_row
        )
        return StepResult(progress.step + 1, {**settings, "skipped": progress.skipped}, skipped)

    def _check_weights(self) -> None:
        """Raise VactkError when weights are not finite: they never recover, and would spoil the saved states."""
        weights = (local_shard(p) for p in self.modules.parameters() if p.requires_grad)
        if on_any_process(not all(bool(weight.isfinite().all()) for weight in weights), self.accelerator):
            raise VactkError(
                f"loss and weights are not finite at step {self.progress.step + 1}; lower optim.lr or use fp32"
            )

    def _count_failures(self, failures: list[ReadError]) -> None:
        """Count the unreadable videos of all processes, which all call this."""
        failures = gather_object(failures)
        failed, num_videos = self.progress.failed, len(self.dataset)
        failed.update({failure.record_index: failure.message for failure in failures})
        if len(failed) / num_videos > self.recipe.run.max_failed:
            raise VactkError(
                f"{len(failed)} of {num_videos} training videos cannot be read, more than "
                f"run.max_failed={self.recipe.run.max_failed}; the last: {failures[-1].message}"
            )

    def _clip_gradients(self) -> float:
        limit = self.recipe.optim.clip_grad_norm or math.inf
        if is_sharded(self.accelerator):
            return clip_sharded_gradients(self.accelerator, self.task, limit)
        return float(self.accelerator.clip_grad_norm_(self.task.parameters(), limit))

    def _split_further(self, reason: str) -> None:
        """Double the micro-batches of a batch. Raises VactkError where that is not allowed or not possible."""
        run, world, micro_batches = (
            self.recipe.run,
            self.accelerator.num_processes,
            self.progress.micro_batches,
        )
        num_videos = run.batch_size // (world * micro_batches)
        problem = f"out of memory at step {self.progress.step + 1}"
        self.optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not run.auto_accumulate or num_videos % 2:
            advice = memory_advice(
                micro_batches=micro_batches,
                num_videos=num_videos,
                checkpointing=run.gradient_checkpointing,
                precision=self.accelerator.mixed_precision,
            )
            raise VactkError(
                f"{problem}, with {num_videos} videos at a time ({reason}); {advice}. Then continue with --resume"
            )
        if world > 1:  # the others wait in the middle of the step: only all together can begin anew
            raise MoreMicroBatchesError(2 * micro_batches, f"{problem} ({reason})")
        self.progress.micro_batches = 2 * micro_batches
        self.message(
            f"{problem}: from here on, batches are split into {2 * micro_batches} micro-batches of "
            f"{num_videos // 2} videos"
        )


def _accelerator(run: RunConfig, logs: Path) -> Accelerator:
    if run.tracker == "none":
        return make_accelerator(run.device, run.precision)
    if importlib.util.find_spec(run.tracker) is None:
        raise VactkError(f"run.tracker={run.tracker} needs a package: pip install 'vactk[{run.tracker}]'")
    accelerator = make_accelerator(run.device, run.precision, log_with=run.tracker, project_dir=logs)
    accelerator.init_trackers("vactk")
    return accelerator


def _check_batch_size(run: RunConfig, world: int) -> None:
    if run.batch_size % (world * run.accumulate):
        raise VactkError(
            f"batch_size {run.batch_size} cannot be divided equally over {world} processes with "
            f"accumulate={run.accumulate}"
        )
