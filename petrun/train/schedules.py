"""Learning-rate schedules: one record each in SCHEDULES, the rate of a step on the host, and the same in the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, nn, ops

from petrun.errors import ConfigError
from petrun.graph.state import number, set_number


def constant(done: Tensor, cos: Callable[[Tensor], Tensor]) -> Tensor:
    """1 at every step."""
    return 1.0


def linear(done: Tensor, cos: Callable[[Tensor], Tensor]) -> Tensor:
    """A line from 1 to 0."""
    return 1.0 - done


def cosine(done: Tensor, cos: Callable[[Tensor], Tensor]) -> Tensor:
    """Half a cosine from 1 to 0. Source: Loshchilov and Hutter, "SGDR", arXiv 1608.03983, equation 5, without restarts."""
    return 0.5 * (1.0 + cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class ScheduleKind:
    """The form of a schedule behind its warm-up."""

    falling: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
    """(done, cos) -> the share of the way from the last to the peak rate. `done`: share of the steps behind the warm-up, 0 to 1; a
    float on the host, () float32 in the graph. `cos`: the cosine of that type."""
    ends_low: bool = True
    """Whether it ends at Schedule.min_ratio times the peak; else it ends at the peak."""
    default_warmup: float = 0.06
    """Warm-up where the user gives none, as a share of all steps."""


SCHEDULES: Mapping[str, ScheduleKind] = {
    "constant": ScheduleKind(falling=constant, ends_low=False, default_warmup=0.0),
    "linear": ScheduleKind(falling=linear),
    "cosine": ScheduleKind(falling=cosine),
}
"""Values of the setting optim.schedule."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate at optimizer step s, counted from 0."""

    kind: str
    """A name in SCHEDULES."""
    peak: float
    warmup_steps: int
    total_steps: int
    min_ratio: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_steps > self.total_steps:
            raise ConfigError(
                f"--warmup {self.warmup_steps} is more than the run's {self.total_steps} steps",
                hint="Give fewer warm-up steps, a share below 1, or more --steps.",
            )

    @property
    def floor(self) -> float:
        """The last rate as a share of the peak."""
        return self.min_ratio if SCHEDULES[self.kind].ends_low else 1.0

    def at(self, step: int) -> float:
        """Peak * (s + 1) / W during warm-up, so that no step has rate 0; then the kind's form to the end."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        falling: float = SCHEDULES[self.kind].falling(done, math.cos)
        return self.peak * (self.floor + (1.0 - self.floor) * falling)


class LearningRate(nn.Cell):
    """Schedule.at, in the graph: the int32 step is a tensor, so no step recompiles anything, and no other rate does."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.kind = schedule.kind
        self.falling = SCHEDULES[schedule.kind].falling
        self.peak, self.warmup, self.span = (
            number("optim.peak_rate", 0.0),
            number("optim.warmup", 0.0),
            number("optim.falling_steps", 1.0),
        )
        self.floor, self.height = number("optim.last_rate", 0.0), number("optim.falling_height", 1.0)
        self.set_schedule(schedule)

    def set_schedule(self, schedule: Schedule) -> None:
        """Give the compiled cell another schedule. Raises ValueError for one of another kind, which is another graph."""
        if schedule.kind != self.kind:
            raise ValueError(f"a schedule {schedule.kind} in the graph of {self.kind}")
        set_number(self.peak, schedule.peak)
        set_number(self.warmup, schedule.warmup_steps)
        set_number(self.span, max(1, schedule.total_steps - schedule.warmup_steps))
        set_number(self.floor, schedule.floor)
        set_number(self.height, 1.0 - schedule.floor)

    def construct(self, step: Tensor) -> Tensor:
        """() int32 -> () float32."""
        s = step.astype(ms.float32)
        done = ops.clamp((s - self.warmup) / self.span, 0.0, 1.0)
        rate = ops.ones_like(s) * (self.floor + self.height * self.falling(done, ops.cos))
        # Without a warm-up no step is below it.
        rate = ops.select(s < self.warmup, (s + 1.0) / ops.maximum(self.warmup, 1.0), rate)
        return self.peak * rate
