"""What keeps a long run sound: losses that are not finite, memory that runs out, and signs worth a line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from vactk.errors import VactkError

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"  # CUDA's matrix products repeat to the last bit with ":4096:8" alone
WARM_STEPS = 50  # before rates and norms mean anything
LONG_WAIT = 0.3  # share of the time spent waiting for data that is worth a line
NORM_SPIKE_FACTOR = 20.0  # times the usual gradient norm
MAX_SKIPPED_IN_A_ROW = 5  # steps in a row without a finite loss and gradient: it will not come back
NORM_EMA_DECAY = 0.98  # of the usual norm, from each step to the next


@dataclass(frozen=True)
class Skipped:
    """A step that was left out because its loss or gradient was not finite."""

    step: int  # from 1
    loss: float
    grad_norm: float
    places: list[int]  # of its videos in the records, on all processes
    count: int  # such steps of the run so far, this one among them
    in_a_row: int

    def problem(self, allowed: int) -> str | None:
        """Why the run must stop, where more than `allowed` steps were left out; None where it may go on."""
        if self.in_a_row >= MAX_SKIPPED_IN_A_ROW:
            return f"that makes {self.in_a_row} such steps in a row"
        if self.count > allowed:
            return f"that makes {self.count} such steps, more than run.max_skipped={allowed}"
        return None


class MoreMicroBatchesError(VactkError):
    """A step does not fit into memory: the run can go on with batches cut into so many pieces."""

    def __init__(self, pieces: int, message: str) -> None:
        super().__init__(f"{message}; go on with run.accumulate={pieces} --resume")
        self.pieces = pieces


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an accelerator's or the machine's memory ran out: torch reports the latter as a plain error."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def memory_advice(*, pieces: int, num_videos: int, checkpointing: bool, precision: str) -> str:
    """What to change when a step of `pieces` pieces, `num_videos` each, does not fit."""
    ways = []
    if num_videos > 1:
        ways.append(
            f"run.accumulate={2 * pieces} (or run.auto_accumulate=true) cuts the batch into smaller pieces"
        )
    if not checkpointing:
        ways.append("run.gradient_checkpointing=true computes again what it does not keep")
    if precision in ("no", "fp32") and torch.cuda.is_available():
        ways.append("--precision bf16 takes half")
    ways.append("fewer --frames or a smaller --batch-size do too")
    return "; ".join(ways)


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside, the same run gives the same bits on the same machine; operations that cannot are refused.

    Raises VactkError for such an operation.
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
        raise VactkError(f"run.deterministic=true cannot be kept: {reason}; leave it out") from error
    finally:
        torch.use_deterministic_algorithms(former[0])
        torch.backends.cudnn.benchmark = former[1]


class Monitor:
    """Tells, once each, of long waits for data, and of gradients that are suddenly far larger than usual."""

    def __init__(self, message: Callable[[str], None]) -> None:
        self.message = message
        self.steps = 0
        self.usual_norm = 0.0
        self.told: set[str] = set()

    def see(self, step: int, values: dict[str, float]) -> None:
        """Look at a step's line of metrics."""
        norm = values.get("grad_norm")
        if norm is None:
            return
        if self.steps >= WARM_STEPS and values["data_wait"] > LONG_WAIT:
            self._tell(
                "wait",
                f"{100 * values['data_wait']:.0f}% of the time goes into waiting for videos: more --workers, "
                "`vactk data convert` or `vactk data cache` make them come faster",
            )
        if self.steps >= WARM_STEPS and norm > NORM_SPIKE_FACTOR * self.usual_norm:
            self._tell(
                "norm",
                f"step {step}: the gradient's norm is {norm:.3g}, usually {self.usual_norm:.3g}; if the loss "
                "does not come down again, lower optim.lr",
            )
        self.steps += 1
        share = max(1 - NORM_EMA_DECAY, 1 / self.steps)
        self.usual_norm += share * (min(norm, NORM_SPIKE_FACTOR * self.usual_norm or norm) - self.usual_norm)

    def _tell(self, about: str, text: str) -> None:
        if about not in self.told:
            self.told.add(about)
            self.message(text)
