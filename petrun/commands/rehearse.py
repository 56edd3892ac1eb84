"""`petrun rehearse`: compile the training step for cards of a cluster that is not there, and report slices, collectives and memory."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from petrun import __version__, console
from petrun.config.commands.train import RehearseSettings
from petrun.config.load import cache_folder
from petrun.rehearsal.compile_ranks import compile_ranks, require_sharded
from petrun.rehearsal.job import RankJob, card_count, choose_ranks, read_settings
from petrun.rehearsal.report import report
from petrun.rehearsal.shapes import batch_shapes
from petrun.rehearsal.stub_cann import ensure_stub
from petrun.tensors import atomic_file
from petrun.tensors.atomic import refuse_occupied
from petrun.training.setup.resolve_layout import resolve_auto, resolve_layout


def run(
    settings: RehearseSettings,
) -> None:
    """Compile the step of some ranks of the job, and print what stands in it."""
    recipe, flags, sets = settings.recipe, settings.flags, settings.sets
    level, out, strategy = settings.level, settings.json_file, settings.strategy_folder
    resolved, start = read_settings(recipe, flags, sets)
    world = card_count(resolved.config, settings.cards)
    resolved, why = resolve_auto(resolved, world)
    layout = resolve_layout(resolved.config, world)
    for line in why:
        console.print(line)
    chosen = choose_ranks(settings.rank_numbers(), layout, strategy is not None)
    place = Path(strategy).expanduser() if strategy is not None else None
    if place is not None:
        refuse_occupied(place)
    shapes = batch_shapes(resolved, start, layout)
    stub = ensure_stub(cache_folder())
    job = RankJob(
        recipe=recipe, flags=flags, sets=list(sets), level=level, writes_strategy=place is not None, shapes=shapes
    )
    found, wrong = compile_ranks(job, stub, layout, chosen, place, settings.debug)
    result = {
        "petrun": __version__,
        "layout": asdict(layout),
        "world": layout.world,
        "level": level,
        "shapes": asdict(shapes),
        "ranks": found,
        "failed": {str(rank): error.message for rank, error in wrong.items()},
    }
    require_sharded(layout, found)
    if out is not None:
        with atomic_file(Path(out).expanduser()) as (file, _):
            file.write(json.dumps({**result, "auto": why}, indent=2).encode())
    if found:
        console.print(report(resolved.config, layout, str(shapes), found, level))
    if place is not None and not wrong:
        console.print(f"wrote how {layout.pp} stage{'s' if layout.pp > 1 else ''} cut their parameters: {place}")
    if wrong:
        raise next(iter(wrong.values()))
