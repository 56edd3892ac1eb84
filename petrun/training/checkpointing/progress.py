"""The progress of a run: counters, first scores and best score, saved with the tensors in every training state."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from petrun.train.loop import Plan, Position
from petrun.typing import JsonObject

RECENT = 20
"""Number of steps whose mean loss a spike is compared with."""


@dataclass(kw_only=True)
class Progress:
    """Holds how far a run is; the recorder changes it after every step."""

    step: int = 0
    micro_batches: int = 0
    epoch: float = 0.0
    first: dict[str, float] = field(default_factory=dict)
    """Scores before the first step."""
    first_losses: list[float] | None = None
    """Losses of a few training rows, before the first step."""
    first_texts: list[str] = field(default_factory=list)
    """Answers to a few prompts, before the first step."""
    updates: int = 0
    """Steps that changed weights: the others overflowed or were not finite."""
    largest_gradient: float = 0.0
    """Largest norm before clipping, over all updates."""
    loss_first: float | None = None
    loss_last: float | None = None
    learned: bool = False
    """Whether a loss was not 0."""
    best_value: float | None = None
    best_step: int = 0
    waited: int = 0
    """Evaluations since the best one."""
    stopped: str = ""
    """Why the run stopped early."""
    recent: list[float] = field(default_factory=list)
    """Losses of the last steps, without steps that were left out."""
    left_out: int = 0
    """The last step that was left out or rewound."""
    log_bytes: int = 0
    seconds: float = 0.0
    """Seconds spent so far, over all the run's processes."""

    @property
    def position(self) -> Position:
        return Position(step=self.step, micro_batches=self.micro_batches)

    def advance(self, record: JsonObject, plan: Plan) -> None:
        """Count the step of a log record."""
        position = plan.after(self.position)
        self.step, self.micro_batches = int(record["step"]), position.micro_batches
        self.epoch, loss = float(record["epoch"]), float(record["loss"])
        if not math.isfinite(loss):
            return
        self.loss_first = loss if self.loss_first is None else self.loss_first
        self.loss_last = loss
        gradient = float(record.get("grad_norm", math.inf))
        if math.isfinite(gradient):
            self.updates += 1
            self.largest_gradient = max(self.largest_gradient, gradient)
        self.learned = self.learned or loss != 0.0
        if self.step != self.left_out:
            self.recent = [*self.recent, loss][-RECENT:]

    def is_spike(self, loss: float, ratio: float) -> bool:
        """Whether a loss is over `ratio` times the mean of the last RECENT."""
        return len(self.recent) == RECENT and loss > ratio * sum(self.recent) / RECENT

    def notes(self) -> JsonObject:
        """Return the fields as JSON, for a training state."""
        return asdict(self)
