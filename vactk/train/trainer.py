"""The one training loop, on Accelerate: steps of a task over batches, from any step to the last."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from vactk.checkpoints.checkpoint import saved_names
from vactk.data.batch_sampler import TrainBatches, derive_seed, num_steps
from vactk.data.video_dataset import Batch, ReadError, VideoDataset, train_loader
from vactk.distributed import make_accelerator
from vactk.errors import VactkError
from vactk.interrupt import Stopped
from vactk.models.video_model import VideoModel, new_model
from vactk.train.fsdp import (
    check_sharding,
    clip_sharded_gradients,
    is_sharded,
    leave_scalars_whole,
    local,
    pieces_of,
    sharded_optimizer_state,
    whole,
    whole_state,
)
from vactk.train.interpolated_weights import Anchor
from vactk.train.optim import build_optimizer, parameter_groups, peak_lr, schedule, set_lr
from vactk.train.recipe import Recipe, RunConfig
from vactk.train.stability import MoreMicroBatchesError, Skipped, is_out_of_memory, memory_advice
from vactk.train.task import VideoTextTask
from vactk.train.weight_averaging import WeightAverage
from vactk.weights.safetensors_file import load_exactly

StepDone = Callable[[int, dict[str, float]], None]  # steps done, what metrics.jsonl gets
StepSkipped = Callable[[Skipped], None]


@dataclass
class Clock:
    """Where the time of a run goes, in seconds of this process."""

    steps_s: float = 0.0
    waiting_s: float = 0.0  # of which for data
    videos: int = 0

    def rates(self) -> dict[str, float]:
        """Videos per second, and the share of the time that was spent waiting for data."""
        seconds = max(self.steps_s, 1e-9)
        return {"videos_per_s": self.videos / seconds, "data_wait": self.waiting_s / seconds}


@dataclass
class TrainProgress:
    """What a run has done so far, beyond weights."""

    step: int = 0
    failed: dict[int, str] = field(default_factory=dict)  # unreadable videos by place in the records
    skipped: int = 0  # steps left out because their loss or gradient was not finite
    skipped_in_a_row: int = 0  # of them up to here
    accumulate: int = 1  # pieces that a batch is cut into


class Trainer:
    """A task, its optimiser and its data, ready to run from `progress.step` on."""

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
        """`originals` has, by their names in files, the original weights that are not in the model now.

        `message` hears of what is worth a line.
        """
        run = recipe.run
        self.recipe = recipe
        self.model = model
        self.dataset = dataset
        self.message = message
        self.accelerator = _accelerator(run, logs)
        self.modules = model.module_dict()
        self.total_steps = num_steps(len(dataset), run.batch_size, run.epochs)
        self.steps_per_epoch = len(dataset) / run.batch_size
        self.warmup_steps = round(recipe.optim.warmup_epochs * self.steps_per_epoch)
        self.progress = TrainProgress(accumulate=run.accumulate)
        self.clock = Clock()
        self.noted: Counter[str] = Counter()  # what had to be chosen in reading videos, and how often
        self._check_batch()
        groups = parameter_groups(self.modules.named_parameters(), recipe.optim)
        if not groups:
            raise VactkError("nothing is trained: choose a temporal module, a class head or task.towers")
        task.to(self.accelerator.device)
        optimizer = build_optimizer(groups, recipe.optim)
        check_sharding(self.accelerator)
        leave_scalars_whole(self.accelerator, task)
        self.task, self.optimizer = self.accelerator.prepare(task, optimizer)
        # before a saved state is loaded
        self.anchor = (
            Anchor(self.modules.named_parameters(), originals) if recipe.interpolated.weight else None
        )
        self.averaged_steps = recipe.average.steps(
            run.epochs, lambda epochs: num_steps(len(dataset), run.batch_size, epochs)
        )
        self.average = self._new_average()

    def run(self, until: int, on_step: StepDone, on_skip: StepSkipped) -> None:
        """Steps up to `until`; `on_step` hears of each, `on_skip` before it of one that was left out.

        Raises VactkError when the weights are not finite, or memory runs out; Stopped between steps, on all
        processes, where a signal that was put off came to one of them.
        """
        batches = self._batches(until)
        self.task.train()
        # of gradients of depthwise convolutions, whose layout differs in a dimension of size 1
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        try:
            while self.progress.step < until:
                started = time.perf_counter()
                try:
                    line = self._step(batches, on_skip)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    line = None
                    reason = (str(error) or type(error).__name__).splitlines()[0]
                if line is None:  # outside of `except`, which holds on to the memory of the step
                    self._halve_pieces(reason)
                    batches = self._batches(until)
                    continue
                self.clock.steps_s += time.perf_counter() - started
                self.progress.step += 1
                self._update_average()
                on_step(self.progress.step, {**line, **self.clock.rates()})
        finally:
            batches.close()  # whose workers may be at work on a video that hangs

    def on_any(self, condition: bool) -> bool:
        """Whether `condition` holds on any process: the same answer on all of them."""
        if self.accelerator.num_processes == 1:
            return condition
        count = torch.tensor(float(condition), device=self.accelerator.device)
        return bool(self.accelerator.reduce(count, reduction="sum") > 0)

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on exactly: weights, optimiser, step, failed videos.

        All processes call it; where weights are sharded, only the main one gets them whole.
        """
        names = saved_names(self.modules, self.recipe.task.towers)
        scaler = self.accelerator.scaler
        state = {
            "step": self.progress.step,
            "failed": self.progress.failed,
            "skipped": self.progress.skipped,
            "skipped_in_a_row": self.progress.skipped_in_a_row,
            "accumulate": self.progress.accumulate,
            "modules": {name: tensor for name, tensor in self.modules.state_dict().items() if name in names},
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "average": None if self.average is None else self.average.state(),
        }
        return whole_state(state, keep=self.accelerator.is_main_process)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        own = self.modules.state_dict()
        may_lack = own.keys() - saved_names(self.modules, self.recipe.task.towers)
        stored = state["modules"]
        weights = {
            name: pieces_of(value, own[name]) if name in own else value for name, value in stored.items()
        }
        load_exactly(self.modules, weights, may_lack=may_lack, source="the saved state")
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.load_state_dict(sharded_optimizer_state(state["optimizer"], trained))
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state(state["average"])
        self.progress = TrainProgress(
            step=state["step"],
            failed=dict(state["failed"]),
            skipped=state.get("skipped", 0),
            skipped_in_a_row=state.get("skipped_in_a_row", 0),
            accumulate=max(state.get("accumulate", 1), self.recipe.run.accumulate),
        )

    def whole_model(self) -> VideoModel:
        """The model to measure and to save: itself, or a copy that every process has all of. All must call it."""
        if not is_sharded(self.accelerator):
            return self.model
        tensors = {name: whole(tensor) for name, tensor in self.modules.state_dict().items()}
        copy = new_model(self.model.config, self.model.heads, weights=False)
        load_exactly(copy.module_dict(), tensors, may_lack=set(), source="the sharded model")
        copy.to(self.accelerator.device)
        return replace(copy, info=self.model.info)

    def notes(self) -> list[str]:
        """What had to be chosen in reading videos, on all processes, which all call this."""
        noted: Counter[str] = sum(gather_object([self.noted]), Counter())
        read = f"of the {self.clock.videos:,} videos read for training"
        return [f"{count:,} {read} {note}" for note, count in sorted(noted.items())]

    def track(self, step: int, values: dict[str, float]) -> None:
        """Send a line of metrics to the tracker that the recipe names."""
        self.accelerator.log(values, step=step)

    def _new_average(self) -> WeightAverage | None:
        if not self.averaged_steps:
            return None
        return WeightAverage({n: p for n, p in self.modules.named_parameters() if p.requires_grad})

    def _update_average(self) -> None:
        if self.average is not None and self.progress.step in self.averaged_steps:
            self.average.update()

    def _check_batch(self) -> None:
        run, world = self.recipe.run, self.accelerator.num_processes
        if run.batch_size % (world * run.accumulate):
            raise VactkError(
                f"batch_size {run.batch_size} cannot be shared out equally over {world} processes "
                f"with accumulate={run.accumulate}"
            )

    def _batches(self, until: int) -> Generator[Batch, None, None]:
        run, accelerator = self.recipe.run, self.accelerator
        batches = TrainBatches(
            len(self.dataset),
            run.batch_size,
            seed=run.seed,
            steps=range(self.progress.step, until),
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            micro_batches=self.progress.accumulate,
        )
        return iter(train_loader(self.dataset, batches))

    def _step(self, batches: Iterator[Batch], on_skip: StepSkipped) -> dict[str, float]:
        """One optimiser step. What is random in it depends on the seed, the step and the videos alone."""
        step, parts = self.progress.step, self.progress.accumulate
        optim = self.recipe.optim
        lr = peak_lr(optim, self.recipe.run.batch_size)
        lr *= schedule(step, self.total_steps, self.warmup_steps, optim.first, optim.last)
        set_lr(self.optimizer, lr)
        sums: dict[str, Tensor] = {}
        places: list[int] = []
        failures: list[ReadError] = []
        alpha = self.recipe.interpolated.draw(derive_seed(self.recipe.run.seed, step))
        for part in range(parts):
            batch = self._next(batches)
            places += batch.indices.tolist()
            failures += batch.failures
            values = {}
            seed = derive_seed(self.recipe.run.seed, step, part)
            torch.manual_seed(seed)
            if self.anchor is not None:
                with self.anchor.mixed(alpha), self.accelerator.no_sync(self.task):
                    mixed = self._losses(batch)["loss"]
                    self.accelerator.backward(mixed * self.recipe.interpolated.factor(alpha) / parts)
                    values["interpolated_loss"] = mixed
                torch.manual_seed(seed)  # both passes see the same templates
            last = part == parts - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.task):
                losses = self._losses(batch)
                self.accelerator.backward(losses["loss"] / parts)
            for name, value in {**losses, **values}.items():
                sums[name] = sums.get(name, 0) + value.detach() / parts
        line = self._mean_over_processes({**sums, "failures": sums["loss"].new_tensor(float(len(failures)))})
        if line.pop("failures"):
            self._count_failures(failures)
        norm = self._clip_gradients()
        about = {"lr": lr} if self.anchor is None else {"alpha": alpha, "lr": lr}
        if self._is_sound(line["loss"], norm):
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.progress.skipped_in_a_row = 0
            return {**line, **about, "grad_norm": norm}
        self.optimizer.zero_grad()
        self._check_weights(line["loss"])
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        everywhere = sorted(gather_object(places))
        on_skip(
            Skipped(step + 1, line["loss"], norm, everywhere, progress.skipped, progress.skipped_in_a_row)
        )
        return {**about, "skipped": progress.skipped}

    def _is_sound(self, loss: float, norm: float) -> bool:
        """Whether a step may be taken. A gradient scaler sees to gradients itself: it looks for its scale so."""
        return math.isfinite(loss) and (self.accelerator.scaler is not None or math.isfinite(norm))

    def _check_weights(self, loss: float) -> None:
        """Nothing comes back from weights that are not finite, and saved states must not be lost to them."""
        weights = (local(p) for p in self.modules.parameters() if p.requires_grad)
        if self.on_any(not all(bool(weight.isfinite().all()) for weight in weights)):
            raise VactkError(
                f"the loss is {loss} at step {self.progress.step + 1}, and so are weights; lower optim.lr or "
                "use fp32"
            )

    def _mean_over_processes(self, values: dict[str, Tensor]) -> dict[str, float]:
        """One message between processes for all of a step's numbers."""
        stacked = torch.stack([value.float() for value in values.values()])
        means = self.accelerator.reduce(stacked, reduction="mean")
        return dict(zip(values, means.tolist(), strict=True))

    def _next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch of this process. All of them wait for theirs together, so that all stop together."""
        started = time.perf_counter()
        batch = None
        with contextlib.suppress(Stopped):
            batch = next(batches)
        self.clock.waiting_s += time.perf_counter() - started
        if self.on_any(batch is None) or batch is None:
            raise Stopped
        self.clock.videos += len(batch.indices) * self.accelerator.num_processes
        self.noted.update(batch.notes)
        return batch

    def _count_failures(self, failures: list[ReadError]) -> None:
        """Take in the failures of all processes, which all call this."""
        failures = gather_object(failures)
        self.progress.failed.update({failure.record_index: failure.message for failure in failures})
        share = len(self.progress.failed) / len(self.dataset)
        if share > self.recipe.run.max_failed:
            raise VactkError(
                f"{len(self.progress.failed)} of {len(self.dataset)} training videos cannot be read, more than "
                f"run.max_failed={self.recipe.run.max_failed}; the last: {failures[-1].message}"
            )

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        device = self.accelerator.device
        if len(batch.indices):
            video = batch.video[:, 0]  # one view: (B, T, 3, H, W)
        else:
            size = self.dataset.image.size
            video = torch.zeros(1, self.recipe.data.num_frames, 3, size, size)
        about = (batch.labels, batch.indices, batch.random_draws)
        return self.task(*(x.to(device, non_blocking=True) for x in (video, *about)))

    def _clip_gradients(self) -> float:
        limit = self.recipe.optim.clip_grad_norm or math.inf
        if is_sharded(self.accelerator):
            return clip_sharded_gradients(self.accelerator, self.task, limit)
        return float(self.accelerator.clip_grad_norm_(self.task.parameters(), limit))

    def _halve_pieces(self, reason: str) -> None:
        """Cut batches into twice as many pieces. Raises VactkError where that is not wanted or possible."""
        run, world, pieces = self.recipe.run, self.accelerator.num_processes, self.progress.accumulate
        num_videos = run.batch_size // (world * pieces)
        self.optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not run.auto_accumulate or num_videos % 2:
            advice = memory_advice(
                pieces=pieces,
                num_videos=num_videos,
                checkpointing=run.gradient_checkpointing,
                precision=self.accelerator.mixed_precision,
            )
            raise VactkError(
                f"out of memory at step {self.progress.step + 1}, with {num_videos} videos at a time ({reason}); "
                f"{advice}. Then go on with --resume"
            )
        if world > 1:  # the others wait in the middle of the step: only all together can begin anew
            raise MoreMicroBatchesError(
                2 * pieces, f"out of memory at step {self.progress.step + 1} ({reason})"
            )
        self.progress.accumulate = 2 * pieces
        self.message(
            f"out of memory at step {self.progress.step + 1}: batches are cut into {2 * pieces} pieces of "
            f"{num_videos // 2} videos from here on"
        )


def _accelerator(run: RunConfig, logs: Path) -> Accelerator:
    if run.tracker == "none":
        return make_accelerator(run.device, run.precision)
    if importlib.util.find_spec(run.tracker) is None:
        raise VactkError(f"run.tracker={run.tracker} needs a package: pip install 'vactk[{run.tracker}]'")
    accelerator = make_accelerator(run.device, run.precision, log_with=run.tracker, project_dir=logs)
    accelerator.init_trackers("vactk")
    return accelerator
