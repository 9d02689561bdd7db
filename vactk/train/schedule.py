"""The number of steps of a run, their learning rates, and after which of them it logs, saves and evaluates."""

from __future__ import annotations

from vactk.data.batch_sampler import num_steps
from vactk.train.optim import peak_lr, schedule
from vactk.train.recipe import Recipe


class TrainSchedule:
    """The steps of a recipe over `num_videos` videos. All methods but `lr` count the steps that are done."""

    def __init__(self, recipe: Recipe, num_videos: int, tower_size: int = 0) -> None:
        """`tower_size`: width x blocks of the vision tower, by which the learning rate may be scaled."""
        run, optim = recipe.run, recipe.optim
        self.run, self.optim = run, optim
        self.peak_lr = peak_lr(optim, run.batch_size, tower_size)
        self.steps_per_epoch = num_videos / run.batch_size
        self.total_steps = max(run.min_steps, num_steps(num_videos, run.batch_size, run.epochs))
        share = round(optim.warmup_share * self.total_steps)
        self.warmup_steps = share or round(optim.warmup_epochs * self.steps_per_epoch)
        self.save_steps = max(1, round(run.save_every * self.steps_per_epoch)) if run.save_every else 0
        self.eval_steps = self._eval_steps()
        self.averaged_steps = recipe.average.steps(
            self.total_steps / self.steps_per_epoch if run.min_steps else run.epochs,
            lambda epochs: num_steps(num_videos, run.batch_size, epochs),
        )

    def lr(self, step: int) -> float:
        """Return the learning rate of the step after `step` steps."""
        optim = self.optim
        factor = schedule(
            step, self.total_steps, self.warmup_steps, optim.warmup_start_factor, optim.min_lr_factor
        )
        return self.peak_lr * factor

    def epoch(self, step: int) -> float:
        """Return the passes over the videos that are done."""
        return step / self.steps_per_epoch

    def logs(self, step: int) -> bool:
        """Return whether metrics are written."""
        return step % self.run.log_every == 0 or step == self.total_steps

    def saves(self, step: int) -> bool:
        """Return whether the state is saved: also before an evaluation, which a signal may interrupt."""
        is_due = self.save_steps > 0 and step % self.save_steps == 0
        return is_due or step == self.total_steps or self.evaluates(step)

    def evaluates(self, step: int) -> bool:
        """Return whether the model is evaluated between steps; after the last one it always is."""
        return self.eval_steps > 0 and 0 < step < self.total_steps and step % self.eval_steps == 0

    def _eval_steps(self) -> int:
        """Return the number of steps from one evaluation to the next; 0 where there are none."""
        if self.run.evaluations:
            return max(1, round(self.total_steps / (self.run.evaluations + 1)))
        return max(1, round(self.run.eval_every * self.steps_per_epoch)) if self.run.eval_every else 0
