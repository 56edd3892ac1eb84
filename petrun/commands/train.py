"""`petrun train`: from a configuration to a run folder."""

from __future__ import annotations

import time
from dataclasses import replace

from petrun import console
from petrun.assets import default_recipe
from petrun.checkpoint.training_state import Found
from petrun.cluster.world import World, is_scheduler, serve
from petrun.config.commands.train import TrainSettings
from petrun.config.load import load_run_config
from petrun.data.rows.bad_rows import SKIPPED, write_skipped
from petrun.parallel import compile_cache, context
from petrun.parallel.sharding import compile_sharded
from petrun.train.stop import stop_request
from petrun.training import plan_text, run_folder
from petrun.training.checkpointing import resume as resuming
from petrun.training.checkpointing import snapshot
from petrun.training.checkpointing.checkpointer import Checkpointer
from petrun.training.checkpointing.fingerprint import fingerprint_of
from petrun.training.preflight.rank_consistency import require_consistent_ranks
from petrun.training.preflight.shared_folder import require_shared
from petrun.training.receipt.receipt import ReceiptInputs
from petrun.training.receipt.update_norms import first_values
from petrun.training.recorder import RunRecorder
from petrun.training.run_folder import RunFolder
from petrun.training.run_lock import RunLock
from petrun.training.run_steps import run_steps
from petrun.training.setup.memory_check import check_memory
from petrun.training.setup.rank_batches import first_batch_inputs
from petrun.training.setup.ranks import join_ranks, require_connected
from petrun.training.setup.resolve import resolve
from petrun.training.setup.starting_delta import algo_to_train, read_start
from petrun.training.setup.training_setup import TrainingSetup, build_training


def run(settings: TrainSettings) -> RunFolder | None:
    """Train and fill the run folder, or resume the run of a folder: that of --resume, or an unfinished one in --out. Raises PetrunError.

    With --preflight, check that the ranks meet and reach each other, and end. Returns the run folder; None where nothing was trained.
    """
    if is_scheduler():
        serve()
        return None
    began, resumed = time.monotonic(), None
    recipe, flags, sets, allow = settings.recipe, settings.flags, settings.sets, settings.allow
    if settings.resume is not None:
        command = None if allow else settings.resume_command
        resumed = resuming.find_resumed(settings.resume, recipe, flags, sets, allowed=allow, command=command)
        if resumed is None:
            return None
    given = resumed.load(sets) if resumed else load_run_config(recipe, flags, sets, embedded=default_recipe())
    start, config = read_start(given), given.config
    device = context.setup(config.device, config.model.dtype, config.train.loss_scale)
    compile_cache.use_compile_cache(config)
    world = join_ranks(device)
    with world.rank_in_errors(), RunLock(console.print) as lock:
        if settings.preflight or world.host_size < world.size:
            require_connected(world)
        if settings.preflight:
            return None
        out, resumes = None, False
        if not settings.dry_run:
            algo, longer = algo_to_train(given, start), resumed is not None and resumed.finished
            out, resumes = run_folder.choose_for_ranks(config.out, algo, world, lock, longer=longer)
        with world.fail_together():
            memory = check_memory(resolved := resolve(given, start, device, world.size, out), world.host_size)
        found = resuming.find_newest_state(out, world) if out is not None and resumes else None
        if resolved.layout.split:
            context.split_operators(resolved.layout, world.rank)
        scored = out is not None and (found is None or found.state is None)
        setup = build_training(resolved, scored=scored, trains=out is not None, world=world)
        require_consistent_ranks(resolved, setup.assembled.loaded, world, setup.trainable)
        if out is not None:
            chosen, out = out, run_folder.create_for_ranks(out, resolved.layout, world, lock)
            if config.out.dir is not None:
                require_shared(out, world)
            elif out.path != chosen.path:
                setup = replace(setup, resolved=resolved.renumbered(out))
        console.print(plan_text.plan(setup, memory))
        if out is None:
            console.print(plan_text.dry_run(setup.resolved))
            return None
        _fill(out, setup, found, world, began, settings)
        return out


def _fill(
    out: RunFolder, setup: TrainingSetup, found: Found | None, world: World, began: float, given: TrainSettings
) -> None:
    """Fill the run folder, from `found`, the states of the run that resumes there, to the receipt."""
    fingerprint = fingerprint_of(setup.resolved, setup.assembled.loaded)
    parameters = snapshot.state_parameters(setup.step, setup.assembled)
    first = first_values(setup.trainable)
    start = resuming.starting_point(out, found, fingerprint, given.allow, setup.resolved.plan)
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
    with RunRecorder(out, setup.config, inputs, setup.resolved.plan, world, shards, layout, given.callback) as recorder:
        parameters = snapshot.on_this_rank(parameters, shards)
        checkpointer = Checkpointer(recorder, parameters, fingerprint, stop_request(), began=began)
        if start.scores:
            # The state of a run's last step was saved before the evaluation after it.
            recorder.note_evaluation(start.scores)
        run_steps(setup, recorder, checkpointer)
        if checkpointer.stop_reason:
            checkpointer.print_resume()
        else:
            recorder.finish(checkpointer.seconds)
