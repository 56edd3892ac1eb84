"""`petrun train`: from a configuration to a run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from petrun import __version__, console, kernels
from petrun.assets import default_recipe
from petrun.checkpoint.run_files import RUN_YAML
from petrun.checkpoint.training_state import Found
from petrun.cluster.first_sum import prove_sum
from petrun.cluster.ranks import cores_here
from petrun.cluster.world import World, is_scheduler, join, serve
from petrun.config.load import Resolved, as_begun, dump_run, load_run_config
from petrun.config.schema import RunConfig
from petrun.console import set_quiet
from petrun.data.rows.bad_rows import SKIPPED, write_skipped
from petrun.errors import ConfigError
from petrun.parallel.context import Device, setup, split_operators
from petrun.parallel.layout import Layout
from petrun.parallel.sharding import compile_sharded
from petrun.train.loop import train
from petrun.train.stop import GRACE, stop_request
from petrun.training import plan_text as describe
from petrun.training import run_folder as folder
from petrun.training.checkpointing import snapshot
from petrun.training.checkpointing.checkpointer import Checkpointer, NonFiniteHandler
from petrun.training.checkpointing.fingerprint import identity_of
from petrun.training.checkpointing.progress import Progress
from petrun.training.checkpointing.resume import go_on, look, note_identity, reopen, run_yaml, source
from petrun.training.preflight.rank_consistency import hold_together
from petrun.training.preflight.shared_folder import require_shared
from petrun.training.receipt.receipt import Facts
from petrun.training.receipt.update_norms import start_of
from petrun.training.recorder import RunRecorder
from petrun.training.run_lock import RunLock
from petrun.training.setup.rank_batches import first_inputs, rows_of
from petrun.training.setup.resolve_layout import check_device, resolve_auto, resolve_layout
from petrun.training.setup.training_setup import TrainingSetup, build_training, read_start, resolve_inferred


def run(
    recipe: str | None,
    flags: Mapping[str, tuple[str, Any]],
    sets: Sequence[str],
    *,
    dry_run: bool = False,
    preflight: bool = False,
    resume: str | None = None,
    allow: Sequence[str] = (),
    again: str = "petrun train --resume",
) -> None:
    """Train as told and fill the run folder; or go on in one where a run did not finish (`resume`, or the folder that --out names).

    `preflight`: see that the ranks meet and reach each other, no more.
    `allow`: settings that may differ from what that run was begun with. `again`: how the user goes on with a run.
    """
    if is_scheduler():
        serve()
        return
    began = time.monotonic()
    longer = False
    if resume is not None:
        found_run = source(resume, recipe, flags, sets, allowed=allow, again=None if allow else again)
        if found_run is None:
            return
        recipe, flags, longer = found_run.recipe, found_run.flags, found_run.finished
    resolved = load_run_config(recipe, flags, sets, embedded=default_recipe())
    if resume is not None and recipe == str(run_yaml(resume)):
        resolved = as_begun(resolved, run_yaml(resume))
    start, resolved = read_start(resolved)
    config = resolved.config
    device = setup(config.device, config.model.dtype, config.train.loss_scale)
    world = _join(device)
    with world.rank_in_errors(), RunLock(console.print) as lock:
        if preflight or world.host_size < world.size:
            _prove(world)
        if preflight:
            return
        resolved, layout = _laid_out(resolved, device, world)
        out, unfinished = (None, False) if dry_run else _folder(config, world, layout, lock, longer)
        found = look(out, world) if out is not None and unfinished else Found(None)
        with world.fail_together():
            ready = build_training(resolved, start, device, layout, scored=not dry_run and found.state is None)
        hold_together(ready, world)
        out = _create(out, world, lock) if out is not None else None
        if out is not None and config.out.dir is not None:
            require_shared(out, world)
        ready = replace(ready, resolved=resolve_inferred(ready.resolved, ready.sources, ready.schedule, device, out))
        console.print(_plan_of(ready, device))
        if out is None:
            console.print(describe.first_rows(ready.sources))
            return
        _run(ready, out, found if unfinished else None, world, began, allow)


def _create(out: folder.RunFolder, world: World, lock: RunLock) -> folder.RunFolder:
    """Make the run folder, and lock it for this process. Raises OutputError."""
    with world.fail_together():
        out = out.create()
        if out.writes:
            lock.take(out.path)
    return out


def _plan_of(ready: TrainingSetup, device: Device) -> str:
    return describe.plan(
        ready.resolved,
        ready.assembled,
        ready.trainable,
        ready.sources,
        ready.batching,
        ready.plan,
        ready.schedule,
        device,
        ready.layout,
    )


def _run(
    ready: TrainingSetup, out: folder.RunFolder, found: Found | None, world: World, began: float, allow: Sequence[str]
) -> None:
    """This rank's part of the job. `found`: what an unfinished run has left in `out`."""
    identity = identity_of(ready.resolved, ready.sources, ready.assembled.loaded, ready.start, ready.layout.dp)
    parameters = snapshot.parameters_of(ready.step, ready.assembled)
    start = start_of(ready.trainable)
    progress, changed = go_on(out, found, identity, allow, ready.plan) if found is not None else (Progress(), True)
    last_scores = reopen(out, progress.step)
    if found is not None and found.state is not None:
        # Whole, also where the step is cut: compiling it cuts what is in it.
        snapshot.put(parameters, found.state)
    if out.writes:
        write_skipped(out.path / SKIPPED, ready.sources.train, ready.sources.evaluation)
    if changed:
        out.write_text(RUN_YAML, dump_run(ready.resolved, __version__))
        note_identity(out, identity)
    split = ready.layout if ready.layout.split else None
    cut = compile_sharded(ready.step, first_inputs(ready), split, world) if split is not None else None
    parameters = snapshot.held(parameters, cut)
    facts = Facts.of(ready, start if cut is None else None, progress)
    with RunRecorder(out, ready.resolved.config, facts, ready.plan, world, cut, split) as recorder:
        checkpointer = Checkpointer(recorder, parameters, identity, stop_request(), began=began)
        if last_scores:
            # The state of a run's last step was saved before the evaluation after it.
            recorder.note_evaluation(last_scores)
        _train(ready, recorder, checkpointer)
        if checkpointer.why:
            checkpointer.leave()
        else:
            recorder.finish(checkpointer.seconds)


def _train(ready: TrainingSetup, recorder: RunRecorder, checkpointer: Checkpointer) -> None:
    """From where the recorder stands to the end, or to where the run is asked to stop."""
    recorder.before(ready.base)
    loaded, done = ready.assembled.loaded, recorder.progress.position
    rows = rows_of(ready, recorder.world.rank, done.micro_batches)
    loaded.net.set_train(True)

    def on_step(record: dict[str, Any]) -> bool:
        return recorder.on_step(record) or checkpointer.on_step(recorder.evaluated)

    non_finite_handler = NonFiniteHandler(checkpointer, recorder)
    with checkpointer.request.deferring():
        train(
            ready.step,
            rows,
            ready.plan,
            loaded.inputs,
            on_step,
            skip_overflow=ready.device.loss_scale is not None,
            done=done,
            forgive=non_finite_handler,
            is_spike=non_finite_handler.is_spike,
        )


def _join(device: Device) -> World:
    """Meet the other ranks. Only the first speaks, and those of one host share out its cores: they wait for each other at every step."""
    world = join(device.target)
    set_quiet(not world.first)
    if world.host_size > 1:
        kernels.set_threads(max(1, cores_here() // world.host_size))
    return world


def _prove(world: World) -> None:
    """That the ranks reach each other. Raises SetupError, ConfigError where there are none."""
    if world.size > 1:
        prove_sum(world, console.print)
    elif GRACE not in os.environ:
        raise ConfigError("--preflight: checks the start of a job of several ranks", hint="Give --cards N as well.")


def _laid_out(resolved: Resolved, device: Device, world: World) -> tuple[Resolved, Layout]:
    """The settings with the choice of --parallel auto, and the layout, which everything compiled from now on follows."""
    if device.target == "ascend":
        resolved, why = resolve_auto(resolved, world.size)
        for line in why:
            console.print(line)
    layout = _layout(resolved.config, device, world)
    if layout.split:
        split_operators(layout, world.rank)
    return resolved, layout


def _layout(config: RunConfig, device: Device, world: World) -> Layout:
    """How the ranks of this job are laid out. Raises ConfigError for what the model or this device cannot do."""
    layout = resolve_layout(config, world.size)
    check_device(config, layout, device.target)
    if layout.split and config.out.dir is None:
        raise ConfigError(
            f"--parallel {layout}: needs --out: each rank writes into the run's folder",
            hint="Give a folder that all ranks see.",
        )
    return layout


def _folder(
    config: RunConfig, world: World, layout: Layout, lock: RunLock, longer: bool
) -> tuple[folder.RunFolder, bool]:
    """The run folder, and whether it holds a run that goes on or starts over. Only the first rank looks whether it may be used, and
    locks it. Raises OutputError.
    """
    directory, algo, fmt = config.out.dir, config.algo, config.out.format
    with world.fail_together():
        if world.first:
            out, goes_on = folder.prepare(directory, algo, fmt, longer=longer)
            if not out.new:
                lock.take(out.path)
                # What it holds may have changed until it was locked.
                out, goes_on = folder.prepare(str(out.path), algo, fmt, longer=longer)
        else:
            out, goes_on = folder.unwritten(directory, algo, fmt), False
    return replace(out, cut=layout.split), world.decide(goes_on)
