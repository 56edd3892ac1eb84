"""`petrun sweep`: runs that differ in a few settings, one after another in one process; those that share a graph compile it once."""

from __future__ import annotations

from pathlib import Path

from petrun import console
from petrun.assets import default_recipe
from petrun.checkpoint.run_files import is_finished
from petrun.cluster.world import start_up
from petrun.config.commands.train import SweepSettings
from petrun.config.load import load_run_config
from petrun.errors import ConfigError, TrainingError
from petrun.parallel import compile_cache, context
from petrun.tensors.output import write_text
from petrun.training import run_folder
from petrun.training.report.page import page
from petrun.training.run_record import read_run
from petrun.training.sweep.halving import best_of, rungs, steps_of
from petrun.training.sweep.members import members_of, parse_axes
from petrun.training.sweep.plan import PlannedRun, plan_runs
from petrun.training.sweep.results import (
    MemberResult,
    ranked,
    require_same_sweep,
    results_text,
    write_results,
)
from petrun.training.sweep.shared_graph import SharedGraph
from petrun.training.sweep.train import pause_run, train_run

REPORT = "sweep.html"


def run(settings: SweepSettings) -> list[MemberResult]:
    """Train every combination of the values, each into a folder of its own, and print them with the best first.

    Settings and data of all runs are checked before the first step. A run whose loss leaves the finite numbers does not stop the others.
    The same command goes on with a sweep that was stopped. Raises PetrunError; TrainingError where no run came to its end.
    """
    axes = parse_axes(settings.over, settings.flags, settings.sets)
    _require_one_process()
    common = load_run_config(settings.recipe, settings.flags, settings.sets, embedded=default_recipe()).config
    device = context.setup(common.device, common.model.dtype, common.train.loss_scale)
    compile_cache.use_compile_cache(common)
    folder = Path(common.out.dir).expanduser() if common.out.dir else run_folder.next_free(common.algo, Path("sweeps"))
    require_same_sweep(folder, axes)
    members = members_of(axes)
    planned = plan_runs(settings, members, folder, device)
    points = rungs(len(planned), settings.halving) if settings.halving is not None else ()
    if settings.halving is not None and not points:
        raise ConfigError(
            f"--halving {settings.halving}: has no effect on {len(planned)} runs",
            hint="Leave it out, or give more values.",
        )
    graphs = len({one.graph for one in planned})
    steps = steps_of(planned, points)
    console.tell(f"{len(planned)} runs, {steps} steps in all, {graphs} training graph{'s' if graphs > 1 else ''}")
    console.tell(f"in {folder}; where it is interrupted, the same command with --out {folder} goes on")
    if settings.dry_run:
        console.print("\n".join(f"  {one.folder}" for one in planned))
        return []
    shared = SharedGraph()
    # A small file of its own in the folder marks it as a sweep, before a run is in it.
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, axes, members, [])

    def pause(one: PlannedRun, step: int) -> MemberResult:
        console.tell(f"\n{one.member.name} up to step {step}")
        return pause_run(one, shared, step)

    alive, found = best_of(planned, points, planned[0].resolved.sources.best, pause)
    for number, one in enumerate(alive, 1):
        console.tell(f"\nrun {number} of {len(alive)}: {one.member.name}")
        write_results(folder, axes, members, found)
        found.append(train_run(one, shared))
    write_results(folder, axes, members, found)
    _end(folder, planned, found)
    return found


def _require_one_process() -> None:
    if start_up() != "alone":
        raise ConfigError(
            "petrun sweep trains its runs one after another in one process, and this is a job of several ranks",
            hint="Start each run by petrun train with --cards; --set gives it its value.",
        )


def _end(folder: Path, planned: list[PlannedRun], found: list[MemberResult]) -> None:
    metric = planned[0].resolved.sources.best
    console.print(f"\n{results_text(found, metric)}")
    done = [one for one in found if one.finished]
    if not done:
        raise TrainingError("no run of the sweep came to its end", hint=found[0].outcome)
    write_text(folder / REPORT, page([read_run(one.folder) for one in planned if is_finished(one.folder)]))
    best = ranked(found, metric)[0]
    console.print(f"\nbest: {folder / best.name}; curves over each other: {folder / REPORT}")
