"""The training loop: micro-batches in, log records out. It knows nothing of files, metrics or algorithms."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import mindspore as ms
import numpy as np
from mindspore import Tensor

from petrun.errors import TrainingError
from petrun.kernels import batch_offset, step_counter
from petrun.tensors import Array
from petrun.tensors.targets import is_scored
from petrun.train.step import TrainStep
from petrun.typing import JsonObject

Batch = Mapping[str, Array]
"""Arrays of a micro-batch by name: the net's inputs and "targets", first axis B; of a rank's share also "first", "scored", "tokens"."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Batch arithmetic of a run."""

    micro_batches_per_epoch: int
    accumulate: int
    total_micro_batches: int

    @property
    def total_steps(self) -> int:
        return -(-self.total_micro_batches // self.accumulate)

    def after(self, position: Position) -> Position:
        """One step on: the last one of a run may hold fewer micro-batches."""
        left = self.total_micro_batches - position.micro_batches
        return Position(step=position.step + 1, micro_batches=position.micro_batches + min(self.accumulate, left))

    def ends_epoch(self, before: Position, after: Position) -> bool:
        """True where the steps from `before` to `after` reach the end of an epoch. A step may take micro-batches of two epochs."""
        return (
            before.micro_batches // self.micro_batches_per_epoch < after.micro_batches // self.micro_batches_per_epoch
        )


@dataclass(frozen=True, kw_only=True)
class Position:
    """Progress of a run: optimizer steps and micro-batches done. All that follows is computed from these."""

    step: int
    micro_batches: int


START = Position(step=0, micro_batches=0)


def never(error: TrainingError, step: int) -> bool:
    """Return False: the run ends at every fault."""
    return False


def no_spike(loss: float) -> bool:
    """No loss is a fault."""
    return False


@dataclass(frozen=True, kw_only=True)
class FaultHandling:
    """Treatment of steps whose loss or gradients are not finite, and of steps whose loss leaps."""

    skip_overflow: bool = False
    """A loss scale is in use, so single steps that are not finite are expected."""
    may_continue: Callable[[TrainingError, int], bool] = never
    """(error, step) -> whether the run continues with the next step; it may restore an earlier state."""
    is_spike: Callable[[float], bool] = no_spike
    """Returns True for a finite loss that counts as a fault."""


def make_plan(per_epoch: int, accumulate: int, epochs: float | None, steps: int | None) -> Plan:
    """`steps` wins over `epochs`; neither: 3 epochs. A part of an epoch is rounded up to whole micro-batches, as transformers does.
    The last step of a run may hold fewer micro-batches.
    """
    passes = 3.0 if epochs is None else epochs
    # Without the inner rounding 0.07 * 100, which is 7.000000000000001, would make 8.
    total = steps * accumulate if steps is not None else math.ceil(round(passes * per_epoch, 6))
    return Plan(micro_batches_per_epoch=per_epoch, accumulate=accumulate, total_micro_batches=max(1, total))


def supervised(batch: Batch) -> int:
    """Count the scored items of a batch; for a rank's share, those of the whole batch."""
    return int(batch["scored"]) if "scored" in batch else int(np.count_nonzero(is_scored(batch["targets"])))


def tokens(batch: Batch) -> int:
    """Tokens read in a batch: non-padding positions, or rows where the data has no tokens; of a share, as in `supervised`."""
    if "tokens" in batch:
        return int(batch["tokens"])
    segments = batch.get("segment_ids")
    return int(np.count_nonzero(segments)) if segments is not None else len(batch["targets"])


def as_tensors(batch: Batch, inputs: Iterable[str]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(targets, the net's inputs in order) as tensors."""
    return Tensor(batch["targets"]), tuple(Tensor(batch[name]) for name in inputs)


def train(
    step: TrainStep,
    micro_batches: Iterator[Batch],
    plan: Plan,
    inputs: tuple[str, ...],
    on_step: Callable[[JsonObject], bool],
    *,
    done: Position = START,
    faults: FaultHandling = FaultHandling(),
) -> int:
    """Run what is left of the plan. `on_step(record)` gets one log record per optimizer step and says whether to stop.

    record: step (from 1), epoch, loss (before the update, mean over the step's supervised items), lr, grad_norm, tokens,
    tokens_per_second, seconds (wall-clock of the step). `done`: what an earlier run of the same plan has done; `micro_batches` start
    there. Returns the number of steps done. Raises TrainingError for a fault at which the run ends, naming step and rows.
    """
    number, micro = done.step, done.micro_batches
    overflows = 0
    while micro < plan.total_micro_batches:
        number += 1
        begin = time.perf_counter()
        wanted = min(plan.accumulate, plan.total_micro_batches - micro)
        group = list(islice(micro_batches, wanted))
        if len(group) < wanted:
            raise TrainingError(f"the data ended at step {number} of {plan.total_steps}")
        loss, norm, rate, finite = _update(step, group, inputs, micro)
        micro += len(group)
        ok = bool(finite.asnumpy()) and bool(np.isfinite(loss))
        overflows = 0 if ok else overflows + 1
        error = None
        if not ok and not (faults.skip_overflow and overflows < 40):
            error = _not_finite(number, group, loss)
        elif ok and faults.is_spike(loss):
            error = _spiking(number, group, loss)
        if error is not None and not faults.may_continue(error, number):
            raise error
        seconds = time.perf_counter() - begin
        read = sum(tokens(batch) for batch in group)
        record = {
            "step": number,
            "epoch": round(micro / plan.micro_batches_per_epoch, 6),
            "loss": loss,
            "lr": float(rate.asnumpy()),
            "grad_norm": float(norm.asnumpy()),
            "tokens": read,
            "tokens_per_second": read / seconds,
            "seconds": seconds,
        }
        if on_step(record):
            break
    return number


def _update(
    step: TrainStep, group: list[Batch], inputs: tuple[str, ...], micro: int
) -> tuple[float, Tensor, Tensor, Tensor]:
    """One optimizer step over the micro-batches from number `micro` on. Returns (loss, and of the last what TrainStep returns besides)."""
    counter, offset = step_counter(), batch_offset()
    count = sum(supervised(batch) for batch in group)
    denominator = Tensor(float(max(count, 1)), ms.float32)
    loss = 0.0
    norm = rate = finite = None
    for position, batch in enumerate(group):
        counter.set_data(Tensor(micro + position, ms.int32))
        offset.set_data(Tensor([batch.get("first", 0), len(batch["targets"])], ms.int32))
        targets, arrays = as_tensors(batch, inputs)
        value, norm, rate, finite = step(position == len(group) - 1, denominator, targets, *arrays)
        loss += float(value.asnumpy())
    return loss, norm, rate, finite


def _rows(group: list[Batch]) -> str:
    rows = [int(row) for batch in group for row in batch.get("rows", ())]
    return ", ".join(str(row) for row in rows[:16]) + (", ..." if len(rows) > 16 else "")


def _spiking(number: int, group: list[Batch], loss: float) -> TrainingError:
    return TrainingError(
        f"step {number}: the loss leapt to {loss:.4g}; the batch held rows {_rows(group)} (counted from 0)",
        hint="Look at these rows, lower --lr, or have the run go back over such steps: --on-nan rewind.",
    )


def _not_finite(number: int, group: list[Batch], loss: float) -> TrainingError:
    shown = _rows(group)
    what = "the loss" if not np.isfinite(loss) else "a gradient"
    hint = "Lower --lr, set --clip 1, or look at these rows; the log up to this step is kept."
    if number == 1:
        hint = "Nothing was updated before it, so --lr is not to blame: look at these rows, and at the base's weights."
    return TrainingError(
        f"step {number}: {what} is not finite (loss {loss}); the batch held rows {shown} (counted from 0). "
        "No parameter was changed by this step.",
        hint=hint,
    )
