"""What `petrun train` does of a job whose operators are split, as one rank of it, on MindSpore's Ascend front end: nothing is computed.

    python -m tests.parallel.one_trained save|resume RECIPE CARDS

MindSpore must find a CANN, or a stub of one, and MS_SIMULATION_LEVEL=0, where groups are imagined: no rank waits for another. save: every
parameter gets values that follow from its name, the step is compiled, and state and delta are saved as after step 1; the first rank must
come last. resume: the saved state is put into a net of other values, and what the rank holds of it after compiling is compared.
"""

import json
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from mindspore import Tensor

from petrun.checkpoint.training_state import find_state
from petrun.cluster.world import join
from petrun.config.load import load_run_config
from petrun.parallel.context import setup, split_operators
from petrun.parallel.sharding import compile_sharded
from petrun.train.stop import stop_request
from petrun.training.checkpointing import snapshot
from petrun.training.checkpointing.checkpointer import Checkpointer
from petrun.training.checkpointing.fingerprint import fingerprint_of
from petrun.training.checkpointing.progress import Progress
from petrun.training.receipt.receipt import ReceiptInputs
from petrun.training.recorder import RunRecorder
from petrun.training.run_folder import RunFolder
from petrun.training.setup.rank_batches import first_batch_inputs
from petrun.training.setup.resolve import resolve_with_layout
from petrun.training.setup.resolve_layout import resolve_layout
from petrun.training.setup.training_setup import build_training


def values_of(name, shape, dtype):
    """The same in every process."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return (rng.standard_normal(shape) * 3 if np.issubdtype(dtype, np.floating) else np.array(7)).astype(dtype)


def fill(parameters):
    for name, p in parameters.items():
        p.set_data(Tensor(values_of(name, p.shape, p.asnumpy().dtype).reshape(p.shape), p.dtype))


def check(parameters, spec, wholes):
    """Every parameter holds this rank's shard of what the state says, bit for bit."""
    for name, p in parameters.items():
        dtype = p.asnumpy().dtype
        shard = spec.shard(name, values_of(name, wholes[name], dtype).reshape(wholes[name]))
        assert p.asnumpy().tobytes() == np.ascontiguousarray(shard).tobytes() and p.shape == shard.shape, name
    assert sum(tuple(p.shape) != wholes[name] for name, p in parameters.items()) > 4 or len(parameters) < len(wholes)


def score(evaluator):
    """Compile the forward pass of an evaluation, in which every rank takes part, beside the step."""
    cell, rows = evaluator.scorer.cell, evaluator.scorer.rows
    cell.set_train(False)
    ids = Tensor(np.ones((rows, 16), np.int32))
    cell.compile(ids, *(ids for _ in evaluator.loaded.inputs))
    evaluator.loaded.net.set_train(True)


def main(what, recipe, cards):
    resolved = load_run_config(recipe, {}, ())
    config = resolved.config
    device = setup("ascend", config.model.dtype, config.train.loss_scale)
    world = join(device.target)
    layout = resolve_layout(config, cards)
    split_operators(layout, world.rank)
    training = build_training(resolve_with_layout(resolved, None, device, layout), scored=False)
    out = RunFolder(
        path=Path(config.out.dir), algo=config.algo, format=config.out.format, writes=world.first, sharded=True
    )
    parameters = snapshot.state_parameters(training.step, training.assembled)
    wholes = {name: tuple(p.shape) for name, p in parameters.items()}
    state = find_state(out.states).state
    if what == "save":
        fill(parameters)
    else:
        snapshot.restore(parameters, state)
    spec = compile_sharded(training.step, first_batch_inputs(training), layout, world)
    parameters = snapshot.on_this_rank(parameters, spec)
    check(parameters, spec, wholes)
    if what == "resume":
        # Going back to a state after a step that is not finite: into a net that is sharded.
        for p in parameters.values():
            p.set_data(Tensor(np.zeros(p.shape, p.asnumpy().dtype), p.dtype))
        snapshot.restore(parameters, state, spec)
        check(parameters, spec, wholes)
        return
    fingerprint = fingerprint_of(training.resolved, training.assembled.loaded)
    inputs = ReceiptInputs.of(training, None, Progress(step=1, micro_batches=1))
    with RunRecorder(out, training.resolved.config, inputs, training.resolved.plan, world, spec, layout) as recorder:
        if layout.pp == 1:
            score(recorder.evaluator)
        check(parameters, spec, wholes)
        checkpointer = Checkpointer(recorder, parameters, fingerprint, stop_request(), began=time.monotonic())
        checkpointer.saved_step = 0
        checkpointer.save()
        recorder.save(out.delta, {"loss": 1.0})
    held = {name: list(p.shape) for name, p in parameters.items()}
    print("HELD", json.dumps({"wholes": wholes, "slices": held}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
