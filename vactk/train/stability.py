"""Stability of long runs: steps that are not finite, memory that runs out, determinism, and warnings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from vactk.errors import VactkError

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"  # CUDA's matrix products are deterministic with ":4096:8" alone
WARM_STEPS = 50  # steps before rates and norms are reliable
LONG_WAIT = 0.3  # share of the time spent waiting for data that deserves a warning
NORM_SPIKE_FACTOR = 20.0  # multiple of the usual gradient norm that deserves a warning
MAX_SKIPPED_IN_A_ROW = 5  # a run does not recover from more
NORM_EMA_DECAY = 0.98  # of the moving average of gradient norms


@dataclass(frozen=True)
class SkippedStep:
    """A step without an update, because its loss or gradient was not finite."""

    step: int  # from 1
    loss: float
    grad_norm: float
    places: list[int]  # its videos on all processes, as positions in the records
    count: int  # steps skipped so far in the run, this one included
    in_a_row: int

    def problem(self, allowed: int) -> str | None:
        """Return why the run must stop, where `allowed` steps may be skipped; None where it may continue."""
        if self.in_a_row >= MAX_SKIPPED_IN_A_ROW:
            return f"{self.in_a_row} consecutive steps skipped"
        if self.count > allowed:
            return f"{self.count} steps skipped, more than run.max_skipped={allowed}"
        return None


class MoreMicroBatchesError(VactkError):
    """Raised when a step does not fit into memory, and the run can continue with `micro_batches` per batch."""

    def __init__(self, micro_batches: int, message: str) -> None:
        super().__init__(f"{message}; continue with run.accumulate={micro_batches} --resume")
        self.micro_batches = micro_batches


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory of the GPU or the machine ran out; torch reports the latter as a plain RuntimeError."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def memory_advice(*, micro_batches: int, num_videos: int, checkpointing: bool, precision: str) -> str:
    """Return what to change when micro-batches of `num_videos` do not fit into memory."""
    ways = []
    if num_videos > 1:
        ways.append(
            f"run.accumulate={2 * micro_batches} (or run.auto_accumulate=true) splits the batch further"
        )
    if not checkpointing:
        ways.append("run.gradient_checkpointing=true recomputes activations instead of keeping them")
    if precision in ("no", "fp32") and torch.cuda.is_available():
        ways.append("--precision bf16 halves activations")
    ways.append("fewer --frames or a smaller --batch-size help too")
    return "; ".join(ways)


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Make the same run give the same bits on the same machine, where `wanted`.

    Raises VactkError for an operation that has no deterministic implementation.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault(CUBLAS, ":4096:8")  # read when CUDA starts
    former = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).split(".")[0]
        raise VactkError(f"run.deterministic=true is not possible here: {reason}; set it to false") from error
    finally:
        torch.use_deterministic_algorithms(former[0])
        torch.backends.cudnn.benchmark = former[1]


class Monitor:
    """Warns, once each, of long waits for data, and of gradients that are suddenly far larger than usual."""

    def __init__(self, message: Callable[[str], None]) -> None:
        self.message = message
        self.steps = 0
        self.usual_norm = 0.0
        self.warned: set[str] = set()

    def check(self, step: int, values: dict[str, float]) -> None:
        """Check the metrics of a step."""
        norm = values.get("grad_norm")
        if norm is None:
            return
        if self.steps >= WARM_STEPS and values["data_wait"] > LONG_WAIT:
            self._warn(
                "wait",
                f"{100 * values['data_wait']:.0f}% of the time is spent waiting for videos: more --workers, "
                "`vactk data convert` or `vactk data cache` speed up reading",
            )
        if self.steps >= WARM_STEPS and norm > NORM_SPIKE_FACTOR * self.usual_norm:
            self._warn(
                "norm",
                f"step {step}: gradient norm {norm:.3g}, usually {self.usual_norm:.3g}; lower optim.lr if the "
                "loss does not recover",
            )
        self.steps += 1
        share = max(1 - NORM_EMA_DECAY, 1 / self.steps)
        self.usual_norm += share * (min(norm, NORM_SPIKE_FACTOR * self.usual_norm or norm) - self.usual_norm)

    def _warn(self, about: str, text: str) -> None:
        if about not in self.warned:
            self.warned.add(about)
            self.message(text)
