"""Decide when a training state is saved, and when a run ends before its last step."""

from __future__ import annotations

import os
import shlex
import signal
import time
from contextlib import suppress
from pathlib import Path

from petrun import console
from petrun.checkpoint.training_state import read_state, save_state, save_state_shards, steps_of
from petrun.cluster.world import World
from petrun.config.schema import TrainConfig
from petrun.errors import WeightsError
from petrun.train.stop import RESUME_FLAGS, Stopped, StopRequest
from petrun.training.checkpointing import snapshot
from petrun.training.recorder import RunRecorder
from petrun.typing import JsonObject

_PAUSE_SECONDS = 15.0
"""Shortest time between two states at the ends of epochs: a run on a handful of rows would spend its time saving."""


class Checkpointer:
    """Saves training states, and ends the run on a signal or when its time is up; called after every step."""

    def __init__(
        self,
        recorder: RunRecorder,
        parameters: snapshot.Parameters,
        fingerprint: JsonObject,
        request: StopRequest,
        *,
        began: float,
        until: int | None = None,
    ) -> None:
        """`began`: time.monotonic() when the command did. `until`: the step after which the run ends, to be resumed."""
        self.recorder = recorder
        self.out = recorder.out
        self.parameters = parameters
        self.fingerprint = fingerprint
        self.request = request
        self.config: TrainConfig = recorder.config.train
        self.began = began
        self.until = until
        self.earlier_seconds = recorder.progress.seconds
        self.saved_step = recorder.progress.step
        self.saved_at = time.monotonic()
        self.signal_number: int | None = None
        self.stop_reason = ""
        """Why the run ends here, unfinished."""

    @property
    def seconds(self) -> float:
        """Seconds spent so far, over all the run's processes."""
        return self.earlier_seconds + time.monotonic() - self.began

    def on_step(self, evaluated: bool) -> bool:
        """Save the state where it is due. Returns whether the run ends here; it can be resumed."""
        progress, plan = self.recorder.progress, self.recorder.plan
        last = progress.micro_batches >= plan.total_micro_batches
        number = self.request.number
        paused = self.until is not None and progress.step >= self.until
        out_of_time = self.config.max_seconds is not None and time.monotonic() - self.began >= self.config.max_seconds
        if self.recorder.world.any_rank(number is not None or ((out_of_time or paused) and not last)):
            signalled = self.recorder.world.ranks_where(number is not None)
            if number is None and signalled:
                # The signal reached another of the processes.
                number = signal.SIGTERM
            self.signal_number = number
            paused = paused and number is None
            self.stop_reason = "paused" if paused else stop_reason(number, signalled, self.recorder.world.size)
            self.save()
            return True
        requested = self.out.save_request.exists() if self.out.writes else False
        due = requested or self._is_due(evaluated, last)
        # Ranks that hold shards save together, when it is due on the first: their clocks differ.
        if self.recorder.world.of_first_rank(due) if self.recorder.shards is not None else due:
            self.save()
            if requested:
                console.tell(f"step {progress.step}: saved, as {self.out.save_request} asks")
                with suppress(OSError):
                    self.out.save_request.unlink()
        return False

    def _is_due(self, evaluated: bool, last: bool) -> bool:
        step, every = self.recorder.progress.step, self.config.save_every_steps
        if every is not None:
            return step % every == 0
        rested = time.monotonic() - self.saved_at >= _PAUSE_SECONDS
        # A finished run can be made longer from the state of its last step.
        return evaluated or last or (rested and self.recorder.epoch_ended)

    def save(self) -> None:
        """Write the state of this step, once. Raises OutputError; the states before it are left as they are."""
        progress = self.recorder.progress
        if self.saved_step == progress.step:
            return
        shards = self.recorder.shards
        if self.out.writes or shards is not None:
            progress.seconds = self.seconds
            self.recorder.log.sync()
            progress.log_bytes = self.recorder.log.size
            content = (
                snapshot.read_values(self.parameters),
                self.fingerprint,
                progress.notes(),
                self.config.keep_states,
            )
            if shards is not None:
                save_state_shards(self.out.states, progress.step, *content, shards)
            else:
                save_state(self.out.states, progress.step, *content)
        self.saved_step, self.saved_at = progress.step, time.monotonic()

    def rewind(self) -> int | None:
        """Restore the newest state. Returns its step, or None where there is none."""
        for step in steps_of(self.out.states):
            if step <= self.saved_step:
                try:
                    snapshot.restore(self.parameters, read_state(self.out.states, step), self.recorder.shards)
                except WeightsError:
                    continue
                return step
        return None

    def print_resume(self) -> None:
        """Print how to resume the run that ended here. Raises Stopped where a signal came."""
        progress = self.recorder.progress
        console.print(
            f"{self.stop_reason} after step {progress.step} of {self.recorder.plan.total_steps}; its state is saved"
        )
        console.print(f"to resume: {resume_command(self.out.path, self.recorder.world)}")
        if self.signal_number is not None:
            raise Stopped(self.signal_number)


def resume_command(path: Path, world: World) -> str:
    """Return the command that resumes the run in `path`, on as many ranks."""
    place = shlex.quote(str(path))
    if world.size == 1:
        return f"petrun resume {place}"
    several = world.host_size < world.size
    if flags := os.environ.get(RESUME_FLAGS):
        elsewhere = ", and on every other host with the --host-rank of that one" if several else ""
        return f"petrun resume {place} {flags}{elsewhere}"
    if several:
        return "the same command once more, on every host"
    return f"petrun resume {place} --cards {world.size}"


def stop_reason(number: int | None, signalled: list[int], size: int) -> str:
    """Return why a run ends before its last step. `signalled`: the ranks that a signal came to, of `size`."""
    if number is None:
        return "the time is up"
    ranks = f"rank{'s' if len(signalled) > 1 else ''} {', '.join(map(str, signalled))}"
    return f"stopped by {signal.Signals(number).name}" + (f" to {ranks} alone" if len(signalled) < size else "")
