"""Builds a run up to its first step: rows, net, delta, optimizer, plan; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from petrun.checkpoint.delta import Delta
from petrun.config.load import Resolved
from petrun.config.schema import RunConfig
from petrun.data.batches.buckets import Batching, plan_batches
from petrun.data.examples.example_set import ExampleSet
from petrun.data.tokenizers.tokenizer import Tokenizer
from petrun.delta import find_method
from petrun.errors import ConfigError
from petrun.graph.freeze import Trainable
from petrun.inference.assembly import (
    Assembled,
    open_base,
)
from petrun.inference.rows import try_rows
from petrun.models.base import LoadedModel
from petrun.parallel.context import Device
from petrun.parallel.layout import Layout
from petrun.train.loop import Plan, make_plan
from petrun.train.schedules import Schedule
from petrun.train.step import TrainStep
from petrun.training.receipt.samples import EvalSnapshot, SampleEvaluator
from petrun.training.run_folder import RunFolder
from petrun.training.setup.build_step import build_step, plan_schedule
from petrun.training.setup.evaluation import require_forward_only
from petrun.training.setup.sources import Sources, open_sources
from petrun.training.setup.starting_delta import attach_method
from petrun.training.setup.unused_settings import require_used_settings


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """Holds all that a run trains with, before anything is written."""

    resolved: Resolved
    device: Device
    layout: Layout
    start: Delta | None
    """The delta of --init-delta."""
    sources: Sources
    assembled: Assembled
    trainable: Trainable
    batching: Batching
    plan: Plan
    schedule: Schedule
    step: TrainStep
    base: EvalSnapshot | None
    """Scores of the base, where they had to be taken before the delta came in."""

    @property
    def config(self) -> RunConfig:
        return self.resolved.config


def build_training(
    resolved: Resolved, start: Delta | None, device: Device, layout: Layout, *, scored: bool
) -> TrainingSetup:
    """Open rows and base, attach the delta, and build optimizer and step.

    `scored`: score the base now, where that cannot be done later. Raises ConfigError and the errors of data and weights.
    """
    sources, resolved = open_sources(resolved, start)
    require_used_settings(resolved, sources)
    _require_classes_for_method(resolved.config, sources)
    loaded = open_base(
        resolved.config.model,
        device,
        task=sources.task,
        num_labels=sources.train.num_labels,
        seed=resolved.config.train.seed,
        arrays=tuple(sources.train.arrays),
    )
    try_rows(loaded, sources.train)
    if layout.split:
        require_forward_only(layout, sources)
    base = _score_base(resolved.config, loaded, sources, layout) if start is None and scored else None
    resolved = prepare_method(resolved, sources.tokenizer)
    assembled, trainable, resolved = attach_method(resolved, loaded, start)
    config = resolved.config
    batching = batch_rows(config, sources.train, layout)
    plan = make_plan(batching.batches_per_epoch, config.train.accumulate, config.train.epochs, config.train.steps)
    schedule = plan_schedule(config.optim, plan, assembled.method.default_lr)
    return TrainingSetup(
        resolved=resolved,
        device=device,
        layout=layout,
        start=start,
        sources=sources,
        assembled=assembled,
        trainable=trainable,
        batching=batching,
        plan=plan,
        schedule=schedule,
        # A method may find the run too short for it: before anything is written.
        step=build_step(config, assembled, trainable, schedule, device, layout),
        base=base,
    )


def _require_classes_for_method(config: RunConfig, sources: Sources) -> None:
    """Raise ConfigError where the method compares distributions over classes, and the labels are numbers."""
    if sources.train.is_regression and find_method(config.algo).needs_classes:
        raise ConfigError(
            f"--algo {config.algo} compares distributions over classes, and the labels are numbers to predict",
            hint="Choose an --algo without it; where the labels are classes: --set data.regression=false",
        )


def _score_base(config: RunConfig, loaded: LoadedModel, sources: Sources, layout: Layout) -> EvalSnapshot | None:
    """Score the base where the delta changes what it computes from the first step on, such as a random prompt; else return None.

    A net whose operators are split over ranks is compiled with its delta and never computes without: it has no scores of the base.
    """
    if find_method(config.algo).identity:
        return None
    return EvalSnapshot() if layout.split else SampleEvaluator(config, loaded, sources).evaluate("base")


def prepare_method(resolved: Resolved, tokenizer: Tokenizer | None) -> Resolved:
    """Replace text in the method's settings by the tokens that it stands for."""
    config = resolved.config
    encode = partial(tokenizer.encode, special=False) if tokenizer is not None else None
    delta = find_method(config.algo).prepare(config.delta, encode)
    return Resolved(config.model_copy(update={"delta": delta}), resolved.origins)


def batch_rows(config: RunConfig, rows: ExampleSet, layout: Layout) -> Batching:
    """Plan the batches of all data-parallel ranks together."""
    return plan_batches(
        rows.lengths,
        batch_size=config.train.batch_size * layout.dp,
        seq_len=config.data.seq_len,
        buckets=config.data.buckets,
        order="shuffle" if config.data.shuffle else "file",
        seed=config.train.seed,
        pack=config.data.pack,
        arrays=rows.is_arrays,
    )


def resolve_inferred(setup: TrainingSetup, out: RunFolder | None) -> TrainingSetup:
    """Return the set-up with every inferred value in its settings, so that run.yaml holds all that was used."""
    resolved, config = setup.resolved, setup.config
    inferred: dict[str, tuple[str | float, str]] = {
        "data.task": (setup.sources.train.task, "inferred from the columns"),
        "optim.lr": (setup.schedule.peak, f"default of {config.algo}"),
        "optim.warmup": (float(setup.schedule.warmup_steps), "default"),
    }
    if out is not None:
        inferred["out.dir"] = (str(out.path), "inferred: the next free number")
    origins = dict(resolved.origins)
    for key, (value, origin) in inferred.items():
        section, _, leaf = key.partition(".")
        part = getattr(config, section)
        if getattr(part, leaf) is None:
            config = config.model_copy(update={section: part.model_copy(update={leaf: value})})
            origins[key] = origin
    if config.device is None:
        config = config.model_copy(update={"device": setup.device.target})
        origins["device"] = "inferred: what this machine has"
    return replace(setup, resolved=Resolved(config, origins))
