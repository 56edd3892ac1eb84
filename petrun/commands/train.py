"""`petrun train`: from a configuration to a run folder."""

from __future__ import annotations

import time
from dataclasses import replace

from petrun import console
from petrun.assets import default_recipe
from petrun.cluster.world import is_scheduler, serve
from petrun.config.commands.train import TrainSettings
from petrun.config.load import load_run_config
from petrun.parallel import compile_cache, context
from petrun.training import plan_text, run_folder
from petrun.training.checkpointing import resume as resuming
from petrun.training.fill import fill
from petrun.training.preflight.rank_consistency import require_consistent_ranks
from petrun.training.preflight.shared_folder import require_shared
from petrun.training.run_folder import RunFolder
from petrun.training.run_lock import RunLock
from petrun.training.setup.memory_check import check_memory
from petrun.training.setup.ranks import join_ranks, require_connected
from petrun.training.setup.resolve import resolve
from petrun.training.setup.starting_delta import algo_to_train, read_start
from petrun.training.setup.training_setup import build_training


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
        console.tell(plan_text.plan(setup, memory))
        if out is None:
            console.print(plan_text.dry_run(setup.resolved))
            return None
        fill(out, setup, found, world, began=began, allow=allow, callback=settings.callback)
        return out
