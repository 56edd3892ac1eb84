"""Resolves the settings of a run: everything that must be read to know them is read, and nothing is built.

`resolve` is the one step from what the user gave to what run.yaml holds. Afterwards no setting changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from petrun import console
from petrun.checkpoint.delta import Delta
from petrun.config.resolved import Resolved
from petrun.config.schema import RunConfig
from petrun.data.batches.buckets import Batching, plan_batches
from petrun.data.examples.example_set import ExampleSet
from petrun.data.tasks import CLASS_TASKS, IMAGE, PREFERENCE
from petrun.delta import find_method
from petrun.errors import ConfigError
from petrun.parallel.context import Device
from petrun.parallel.layout import Layout
from petrun.train.loop import Plan, make_plan
from petrun.train.schedules import Schedule
from petrun.training.run_folder import RunFolder
from petrun.training.setup.build_step import plan_schedule
from petrun.training.setup.diffusion import require_possible_on_pictures
from petrun.training.setup.evaluation import require_forward_only
from petrun.training.setup.new_rows import resolve_new_rows
from petrun.training.setup.preference import kind_of, require_possible
from petrun.training.setup.resolve_auto import resolve_auto
from petrun.training.setup.resolve_layout import resolve_run_layout
from petrun.training.setup.sources import Sources, open_sources, resolve_data
from petrun.training.setup.starting_delta import (
    StartingDelta,
    fit_to_base,
    resolve_algorithm,
    resolve_start,
    resolve_text,
)
from petrun.training.setup.unused_settings import require_used_settings
from petrun.training.tracking.watchers import require_tracker

_NUMBERED = "inferred: the next free number"


@dataclass(frozen=True, kw_only=True)
class ResolvedRun:
    """Holds a run's settings, all of them known, and what was read and computed to know them."""

    settings: Resolved
    device: Device
    layout: Layout
    start: StartingDelta | None
    """The delta of --init-delta."""
    sources: Sources
    batching: Batching
    plan: Plan
    schedule: Schedule

    @property
    def config(self) -> RunConfig:
        return self.settings.config

    @property
    def origins(self) -> Mapping[str, str]:
        return self.settings.origins

    def renumbered(self, out: RunFolder) -> ResolvedRun:
        """Return the run in another numbered folder: another run has taken the number while this one was built."""
        return replace(self, settings=self.settings.settle({"out.dir": str(out.path)}, _NUMBERED))


def resolve(
    given: Resolved, start: Delta | None, device: Device, cards: int, out: RunFolder | None = None
) -> ResolvedRun:
    """Resolve every setting of a run of so many ranks. `start`: see `read_start`; `out`: the run's folder, None for a run without one.

    Reads config.json, the tokenizer and the rows, and prints why `--parallel auto` chose its layout.
    Raises ConfigError and the errors of data and deltas.
    """
    settings = resolve_new_rows(resolve_algorithm(given, start))
    if device.target == "ascend":
        settings, reasons = resolve_auto(settings, cards)
        for line in reasons:
            console.tell(line)
    layout = resolve_run_layout(settings.config, device.target, cards)
    return resolve_with_layout(settings, start, device, layout, out)


def resolve_with_layout(
    given: Resolved, start: Delta | None, device: Device, layout: Layout, out: RunFolder | None = None
) -> ResolvedRun:
    """Resolve every setting of a run whose layout is known."""
    settings, base_info = resolve_data(resolve_new_rows(resolve_algorithm(given, start)), start)
    sources = open_sources(settings.config, base_info, start)
    require_used_settings(settings, sources)
    require_tracker(settings.config)
    _require_classes_for_method(settings.config, sources)
    is_preference = sources.train.task == PREFERENCE
    if is_preference:
        require_possible(settings.config, layout, sources.train)
    if sources.train.task == IMAGE:
        require_possible_on_pictures(settings.config, layout)
    if layout.split:
        require_forward_only(layout, sources)
    settings = resolve_text(settings, sources.tokenizer)
    settings, starting = resolve_start(settings, start, fit_to_base(settings.config, device, sources))
    config = settings.config
    batching = batch_rows(config, sources.train, layout)
    plan = make_plan(batching.batches_per_epoch, config.train.accumulate, config.train.epochs, config.train.steps)
    schedule = plan_schedule(config.optim, plan, find_method(config.algo).default_lr)
    inferred: dict[str, tuple[object, str]] = {
        "data.task": (sources.train.task, "inferred from the columns"),
        "optim.lr": (schedule.peak, f"default of {config.algo}"),
        "optim.warmup": (float(schedule.warmup_steps), "default"),
        **(
            {}
            if not is_preference
            else {"preference.beta": (kind_of(config).beta, f"default of {config.preference.loss}")}
        ),
        **({} if out is None else {"out.dir": (str(out.path), _NUMBERED)}),
        "device": (device.target, "inferred: what this machine has"),
    }
    for key, (value, origin) in inferred.items():
        if settings.value(key) is None:
            settings = settings.settle({key: value}, origin)
    return ResolvedRun(
        settings=settings,
        device=device,
        layout=layout,
        start=starting,
        sources=sources,
        batching=batching,
        plan=plan,
        schedule=schedule,
    )


def _require_classes_for_method(config: RunConfig, sources: Sources) -> None:
    """Raise ConfigError where the method compares distributions over classes, and the labels are numbers."""
    if sources.train.is_regression and find_method(config.algo).needs_classes:
        raise ConfigError(
            f"--algo {config.algo} compares distributions over classes, and the labels are numbers to predict",
            hint="Choose an --algo without it; where the labels are classes: --set data.regression=false",
        )


def batch_rows(config: RunConfig, rows: ExampleSet, layout: Layout) -> Batching:
    """Plan the batches of all data-parallel ranks together. Raises ConfigError for --pack where a sequence has one target."""
    if config.data.pack and rows.task in CLASS_TASKS and not rows.is_arrays:
        reason = (
            "the net gives one answer for a sequence, and each row of classify needs its own"
            if rows.task == "classify"
            else "the positions of an encoder begin once in a sequence"
        )
        raise ConfigError(f"--pack: {reason}", hint="Leave it out.")
    return plan_batches(
        rows.batch_lengths,
        batch_size=config.train.batch_size * layout.dp,
        seq_len=rows.longest_row(config.data.seq_len),
        buckets=config.data.buckets,
        order="shuffle" if config.data.shuffle else "file",
        seed=config.train.seed,
        pack=config.data.pack,
        arrays=rows.is_arrays,
    )
