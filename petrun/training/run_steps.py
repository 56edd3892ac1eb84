"""Run the training loop of a run: read batches, and call the recorder and the checkpointer after every step."""

from __future__ import annotations

from petrun.train.loop import FaultHandling, train
from petrun.training.checkpointing.checkpointer import Checkpointer
from petrun.training.non_finite import NonFiniteHandler
from petrun.training.recorder import RunRecorder
from petrun.training.setup.rank_batches import rank_batches
from petrun.training.setup.training_setup import TrainingSetup
from petrun.typing import JsonObject


def run_steps(setup: TrainingSetup, recorder: RunRecorder, checkpointer: Checkpointer) -> None:
    """Take the steps from where the recorder is to the last, or to where the run is asked to stop."""
    recorder.start(setup.base)
    loaded, done = setup.assembled.loaded, recorder.progress.position
    batches = rank_batches(setup, recorder.world.rank, done.micro_batches)
    loaded.net.set_train(True)

    def on_step(record: JsonObject) -> bool:
        return recorder.on_step(record) or checkpointer.on_step(recorder.evaluated)

    non_finite = NonFiniteHandler(checkpointer, recorder)
    with checkpointer.request.deferring():
        train(
            setup.step,
            batches,
            setup.resolved.plan,
            setup.inputs,
            on_step,
            done=done,
            faults=FaultHandling(
                skip_overflow=setup.resolved.device.loss_scale is not None,
                may_continue=non_finite,
                is_spike=non_finite.is_spike,
            ),
        )
