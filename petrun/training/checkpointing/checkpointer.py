"""When a training state is written, and when a run ends before its last step."""

from __future__ import annotations

import os
import shlex
import signal
import time
from contextlib import suppress
from typing import Any

from petrun import console
from petrun.checkpoint.training_state import read_state, save_state, save_state_pieces, steps_of
from petrun.config.schema import TrainConfig
from petrun.errors import TrainingError, WeightsError
from petrun.train.stop import RESUME_FLAGS, Stopped, StopRequest
from petrun.training.checkpointing import snapshot
from petrun.training.recorder import RunRecorder

_PAUSE_SECONDS = 15.0
"""Between two states at the ends of epochs: a run on a handful of rows would spend its time saving."""


class Checkpointer:
    """Asked after every step."""

    def __init__(
        self,
        recorder: RunRecorder,
        parameters: dict[str, Any],
        identity: dict[str, Any],
        request: StopRequest,
        *,
        began: float,
    ) -> None:
        """`began`: time.monotonic() when the command did."""
        self.recorder = recorder
        self.out = recorder.out
        self.parameters = parameters
        self.identity = identity
        self.request = request
        self.config: TrainConfig = recorder.config.train
        self.began = began
        self.earlier_seconds = recorder.progress.seconds
        self.saved_step = recorder.progress.step
        self.saved_at = time.monotonic()
        self.number: int | None = None
        self.why = ""
        """Why the run ends here, unfinished."""

    @property
    def seconds(self) -> float:
        """Spent so far, over all the run's processes."""
        return self.earlier_seconds + time.monotonic() - self.began

    def on_step(self, evaluated: bool) -> bool:
        """Save what is due. True: the run ends here, to be gone on with."""
        progress, plan = self.recorder.progress, self.recorder.plan
        last = progress.micro_batches >= plan.total_micro_batches
        number = self.request.number
        out_of_time = self.config.max_seconds is not None and time.monotonic() - self.began >= self.config.max_seconds
        if self.recorder.world.agree(number is not None or (out_of_time and not last)):
            told = self.recorder.world.which(number is not None)
            if number is None and told:
                # Another of the processes was told.
                number = signal.SIGTERM
            self.number = number
            self.why = _why(number, told, self.recorder.world.size)
            self.save()
            return True
        asked = self.out.save_wish.exists() if self.out.writes else False
        due = asked or self._is_due(evaluated, last)
        # Ranks that hold slices save together, when the first finds it time: their clocks differ.
        if self.recorder.world.decide(due) if self.recorder.cut is not None else due:
            self.save()
            if asked:
                console.print(f"step {progress.step}: saved, as {self.out.save_wish} asks")
                with suppress(OSError):
                    self.out.save_wish.unlink()
        return False

    def _is_due(self, evaluated: bool, last: bool) -> bool:
        step, every = self.recorder.progress.step, self.config.save_every_steps
        if every is not None:
            return step % every == 0
        rested = time.monotonic() - self.saved_at >= _PAUSE_SECONDS
        # From the last step's state a finished run can be made longer.
        return evaluated or last or (rested and self.recorder.epoch_ended)

    def save(self) -> None:
        """Write the state of this step, once. Raises OutputError; the states before it are left as they are."""
        progress = self.recorder.progress
        if self.saved_step == progress.step:
            return
        cut = self.recorder.cut
        if self.out.writes or cut is not None:
            progress.seconds = self.seconds
            self.recorder.log.sync()
            progress.log_bytes = self.recorder.log.size
            what = (snapshot.take(self.parameters), self.identity, progress.notes(), self.config.keep_states)
            if cut is not None:
                save_state_pieces(self.out.states, progress.step, *what, cut)
            else:
                save_state(self.out.states, progress.step, *what)
        self.saved_step, self.saved_at = progress.step, time.monotonic()

    def rewind(self) -> int | None:
        """Put the values of the newest state back. Returns its step, or None where there is none."""
        for step in steps_of(self.out.states):
            if step <= self.saved_step:
                try:
                    snapshot.put(self.parameters, read_state(self.out.states, step), self.recorder.cut)
                except WeightsError:
                    continue
                return step
        return None

    def leave(self) -> None:
        """Say how to go on. Raises Stopped where a signal came."""
        progress = self.recorder.progress
        console.print(f"{self.why} after step {progress.step} of {self.recorder.plan.total_steps}; its state is saved")
        console.print(f"to go on: {self._again()}")
        if self.number is not None:
            raise Stopped(self.number)

    def _again(self) -> str:
        """The command that goes on with the run, on as many ranks."""
        world, place = self.recorder.world, shlex.quote(str(self.out.path))
        if world.size == 1:
            return f"petrun resume {place}"
        several = world.host_size < world.size
        if flags := os.environ.get(RESUME_FLAGS):
            elsewhere = ", and on every other host with the --host-rank of that one" if several else ""
            return f"petrun resume {place} {flags}{elsewhere}"
        if several:
            return "the same command once more, on every host"
        return f"petrun resume {place} --cards {world.size}"


def _why(number: int | None, told: list[int], size: int) -> str:
    """Why a run ends before its last step. `told`: the ranks that a signal came to, of `size`."""
    if number is None:
        return "the time is up"
    ranks = f"rank{'s' if len(told) > 1 else ''} {', '.join(map(str, told))}"
    return f"stopped by {signal.Signals(number).name}" + (f" to {ranks} alone" if len(told) < size else "")


class NonFiniteHandler:
    """What --on-nan asks for at a step that is not finite, or whose loss leaps."""

    def __init__(self, checkpointer: Checkpointer, recorder: RunRecorder) -> None:
        self.checkpointer = checkpointer
        self.recorder = recorder
        self.policy = recorder.config.train.on_nan
        self.ratio = recorder.config.train.spike_ratio
        self.in_a_row = 0

    def is_spike(self, loss: float) -> bool:
        return self.ratio is not None and self.recorder.progress.is_spike(loss, self.ratio)

    def __call__(self, error: TrainingError, step: int) -> bool:
        """Mend what can be mended. False: the run has to stop. Raises TrainingError where it does not get better."""
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
        event: dict[str, Any] = {"step": step, "event": "skipped"}
        if self.policy == "rewind":
            back = self.checkpointer.rewind()
            if back is None:
                raise TrainingError(
                    f"{error.message}\nThere is no state to go back to yet.", hint="Give --save-every a smaller number."
                )
            event = {"step": step, "event": "rewound", "to": back}
        self.recorder.log.write(event)
        what = f"weights and optimizer are those of step {event['to']} again" if "to" in event else "left out"
        console.print(f"{error.message.partition(';')[0]}: {what}; it goes on with the next rows")
        return True


_MOST_IN_A_ROW = 20
