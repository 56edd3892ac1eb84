"""`petrun rehearse`: compile the training step for cards of a cluster that is not there, and report shards, collectives and memory."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from petrun import __version__, console
from petrun.config.commands.train import RehearseSettings
from petrun.config.load import cache_folder
from petrun.config.resolved import Resolved
from petrun.parallel.layout import Layout
from petrun.rehearsal.comparison import computed_report, require_equal
from petrun.rehearsal.compile_ranks import compile_ranks, require_sharded
from petrun.rehearsal.compute_job import compute_job, computed_flags, computed_steps, require_computable
from petrun.rehearsal.job import RankJob, card_count, choose_ranks, read_settings
from petrun.rehearsal.report import report
from petrun.rehearsal.shapes import batch_shapes
from petrun.rehearsal.stub_cann import ensure_stub
from petrun.tensors import atomic_file
from petrun.tensors.atomic import refuse_occupied
from petrun.training.setup.resolve_auto import resolve_auto
from petrun.training.setup.resolve_layout import resolve_layout


def run(settings: RehearseSettings) -> None:
    """Compile the step of some ranks of the job, and print shards, collectives and memory of each. Raises PetrunError.

    With --compute: of all ranks, and compute them.
    """
    resolved, start = read_settings(settings.recipe, settings.flags, settings.sets)
    cards = card_count(resolved.config, settings.cards)
    resolved, reasons = resolve_auto(resolved, cards)
    layout = resolve_layout(resolved.config, cards)
    for line in reasons:
        console.print(line)
    strategy = Path(settings.strategy_folder).expanduser() if settings.strategy_folder is not None else None
    ranks = choose_ranks(settings.rank_numbers(), layout, every_stage=strategy is not None)
    if strategy is not None:
        refuse_occupied(strategy)
    if settings.compute:
        _compute(settings, resolved, layout)
        return
    shapes = batch_shapes(resolved, start, layout)
    stub = ensure_stub(cache_folder())
    job = RankJob(
        recipe=settings.recipe,
        flags=settings.flags,
        sets=list(settings.sets),
        level=settings.level,
        writes_strategy=strategy is not None,
        shapes=shapes,
    )
    found, failed = compile_ranks(job, stub, layout, ranks, strategy, settings.debug)
    require_sharded(layout, found)
    if settings.json_file is not None:
        result = {
            "petrun": __version__,
            "layout": asdict(layout),
            "world": layout.world,
            "level": settings.level,
            "shapes": asdict(shapes),
            "ranks": found,
            "failed": {str(rank): error.message for rank, error in failed.items()},
            "auto": reasons,
        }
        with atomic_file(Path(settings.json_file).expanduser()) as (file, _):
            file.write(json.dumps(result, indent=2).encode())
    if found:
        console.print(report(resolved.config, layout, str(shapes), found, settings.level))
    if strategy is not None and not failed:
        console.print(f"wrote how {layout.pp} stage{'s' if layout.pp > 1 else ''} cut their parameters: {strategy}")
    if failed:
        raise next(iter(failed.values()))


def _compute(settings: RehearseSettings, resolved: Resolved, layout: Layout) -> None:
    """Compute the first steps on all ranks, and print them beside those of one rank. Raises SetupError where they differ."""
    require_computable(layout, settings.rank_numbers(), settings.strategy_folder)
    stub = ensure_stub(cache_folder())
    with computed_flags(resolved, settings.flags, layout, settings.shrink) as flags:
        own, start = read_settings(settings.recipe, flags, settings.sets)
        job = RankJob(
            recipe=settings.recipe,
            flags=flags,
            sets=list(settings.sets),
            level=0,
            writes_strategy=layout.split,
            shapes=batch_shapes(own, start, layout),
            cards=layout.world,
            steps=computed_steps(flags),
        )
        dtype = str(own.config.model.dtype)
        steps, seconds = compute_job(job, stub, layout, dtype, settings.debug)
    console.print(computed_report(layout, dtype, steps, seconds))
    if settings.json_file is not None:
        result = {
            "petrun": __version__,
            "layout": asdict(layout),
            "shapes": asdict(job.shapes),
            "dtype": dtype,
            "steps": [asdict(step) for step in steps],
            "seconds": round(seconds, 2),
        }
        with atomic_file(Path(settings.json_file).expanduser()) as (file, _):
            file.write(json.dumps(result, indent=2).encode())
    require_equal(layout, dtype, steps)
