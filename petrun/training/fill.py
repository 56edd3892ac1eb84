"""Fill the run folder of a run that is built: settings, steps with their log and states, deltas, results and receipt."""

from __future__ import annotations

from collections.abc import Sequence

from petrun.checkpoint.training_state import Found
from petrun.cluster.world import World
from petrun.data.rows.bad_rows import SKIPPED, write_skipped
from petrun.parallel.sharding import compile_sharded
from petrun.train.stop import stop_request
from petrun.training.checkpointing import resume as resuming
from petrun.training.checkpointing import snapshot
from petrun.training.checkpointing.checkpointer import Checkpointer
from petrun.training.checkpointing.fingerprint import fingerprint_of
from petrun.training.receipt.receipt import ReceiptInputs
from petrun.training.receipt.update_norms import first_values
from petrun.training.recorder import RunRecorder
from petrun.training.run_folder import RunFolder
from petrun.training.run_steps import run_steps
from petrun.training.setup.rank_batches import first_batch_inputs
from petrun.training.setup.training_setup import TrainingSetup
from petrun.training.tracking.watchers import Callback


def fill(
    out: RunFolder,
    setup: TrainingSetup,
    found: Found | None,
    world: World,
    *,
    began: float,
    allow: Sequence[str] = (),
    callback: Callback | None = None,
    until: int | None = None,
) -> None:
    """Fill the run folder, from `found`, the states of the run that resumes there, to the receipt.

    `began`: time.monotonic() when the run did; `allow`: settings that may differ from those that it was begun with; `callback`: gets each
    record of the log; `until`: the step after which the run ends, to be resumed. Every rank must call it. Raises PetrunError.
    """
    fingerprint = fingerprint_of(setup.resolved, setup.assembled.loaded)
    parameters = snapshot.state_parameters(setup.step, setup.assembled)
    first = first_values(setup.trainable)
    start = resuming.starting_point(out, found, fingerprint, allow, setup.resolved.plan)
    if found is not None and found.state is not None:
        # Full tensors, also where the step is sharded: compiling it shards them.
        snapshot.restore(parameters, found.state)
    if out.writes:
        write_skipped(out.path / SKIPPED, setup.resolved.sources.train, setup.resolved.sources.evaluation)
    if start.settings_changed:
        resuming.write_settings(out, setup.resolved.settings, fingerprint)
    layout = setup.resolved.layout if setup.resolved.layout.split else None
    shards = compile_sharded(setup.step, first_batch_inputs(setup), layout, world) if layout is not None else None
    inputs = ReceiptInputs.of(setup, first if shards is None else None, start.progress)
    with RunRecorder(out, setup.config, inputs, setup.resolved.plan, world, shards, layout, callback) as recorder:
        parameters = snapshot.on_this_rank(parameters, shards)
        checkpointer = Checkpointer(recorder, parameters, fingerprint, stop_request(), began=began, until=until)
        if start.scores:
            # The state of a run's last step was saved before the evaluation after it.
            recorder.note_evaluation(start.scores)
        run_steps(setup, recorder, checkpointer)
        if checkpointer.stop_reason:
            checkpointer.print_resume()
        else:
            recorder.finish(checkpointer.seconds)
