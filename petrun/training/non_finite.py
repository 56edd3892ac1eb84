"""Handle a step whose loss or gradient is not finite, or whose loss is a spike."""

from __future__ import annotations

from petrun import console
from petrun.errors import TrainingError
from petrun.training.checkpointing.checkpointer import Checkpointer
from petrun.training.recorder import RunRecorder
from petrun.typing import JsonObject

_MOST_IN_A_ROW = 20


class NonFiniteHandler:
    """Does what --on-nan says at a step that is not finite, or whose loss is a spike: stop, skip or rewind."""

    def __init__(self, checkpointer: Checkpointer, recorder: RunRecorder) -> None:
        self.checkpointer = checkpointer
        self.recorder = recorder
        self.policy = recorder.config.train.on_nan
        self.ratio = recorder.config.train.spike_ratio
        self.in_a_row = 0

    def is_spike(self, loss: float) -> bool:
        return self.ratio is not None and self.recorder.progress.is_spike(loss, self.ratio)

    def __call__(self, error: TrainingError, step: int) -> bool:
        """Skip the step or rewind to the newest state. Returns False where the run has to stop. Raises TrainingError after too many in a
        row.
        """
        if self.policy == "stop":
            return False
        progress = self.recorder.progress
        self.in_a_row = self.in_a_row + 1 if step == progress.left_out + 1 else 1
        progress.left_out = step
        if self.in_a_row > _MOST_IN_A_ROW:
            raise TrainingError(
                f"{error.message}\n{_MOST_IN_A_ROW} steps before it, one after the other, were left out for the same reason.",
                hint="Lower --lr, or set --clip 1, and begin again.",
            )
        event: JsonObject = {"step": step, "event": "skipped"}
        if self.policy == "rewind":
            back = self.checkpointer.rewind()
            if back is None:
                raise TrainingError(
                    f"{error.message}\nThere is no state to go back to yet.", hint="Give --save-every a smaller number."
                )
            event = {"step": step, "event": "rewound", "to": back}
        self.recorder.log.write(event)
        what = f"weights and optimizer are those of step {event['to']} again" if "to" in event else "left out"
        console.print(f"{error.message.partition(';')[0]}: {what}; the run continues with the next rows")
        return True
