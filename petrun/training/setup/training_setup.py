"""Builds a run whose settings are resolved up to its first step: net, delta, optimizer, step; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass, replace

from petrun.cluster.world import ALONE, World
from petrun.config.schema import RunConfig
from petrun.data.examples.example_set import LATENTS, STATES
from petrun.data.tasks import IMAGE, PREFERENCE
from petrun.delta import find_method
from petrun.graph.freeze import Trainable
from petrun.inference.assembly import Assembled, open_base
from petrun.inference.pictures.latents import with_latents
from petrun.inference.rows import try_rows
from petrun.models.base import LoadedModel
from petrun.train.step import TrainStep
from petrun.training.preflight.rank_consistency import require_consistent_ranks
from petrun.training.receipt.samples import EvalSnapshot, SampleEvaluator
from petrun.training.setup.attach_method import attach_method
from petrun.training.setup.build_step import build_step
from petrun.training.setup.preference import add_base_log_probs, loss_inputs
from petrun.training.setup.resolve import ResolvedRun


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """Holds all that a run trains with, before anything is written."""

    resolved: ResolvedRun
    assembled: Assembled
    trainable: Trainable
    step: TrainStep
    base: EvalSnapshot | None
    """Scores of the base, where they had to be taken before the delta came in."""

    @property
    def config(self) -> RunConfig:
        return self.resolved.config

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what the step's loss is called with beside the targets, in order."""
        if self.resolved.sources.train.task == IMAGE:
            return LATENTS, STATES
        is_preference = self.resolved.sources.train.task == PREFERENCE
        return (loss_inputs(self.config) if is_preference else ()) + self.assembled.loaded.inputs


def build_training(resolved: ResolvedRun, *, scored: bool, trains: bool = True, world: World = ALONE) -> TrainingSetup:
    """Load the base, attach the delta, and build optimizer and step. `scored`: score the base now, where that cannot be done later;
    `trains`: steps will be taken, for which a loss may need what the base says of the rows.

    Every rank of `world` must call it at the same point.
    Raises ConfigError and the errors of data, weights and deltas; SetupError where the ranks differ or another one failed.
    """
    config, sources = resolved.config, resolved.sources
    with world.fail_together():
        loaded = open_base(
            config.model,
            resolved.device,
            task=sources.task,
            num_labels=sources.train.num_labels,
            seed=config.train.seed,
            arrays=tuple(sources.train.arrays),
        )
        if sources.train.task != IMAGE:
            try_rows(loaded, sources.train)
        elif trains:
            train = with_latents(config, sources.train, resolved.device)
            resolved = replace(resolved, sources=replace(sources, train=train))
    compares = trains and sources.train.task == PREFERENCE
    scores_without_delta = resolved.start is None and not find_method(config.algo).identity
    if compares:
        require_consistent_ranks(resolved, loaded, world)
    if compares and scores_without_delta:
        resolved = replace(resolved, sources=add_base_log_probs(config, sources, loaded, world))
    base = _score_base(resolved, loaded, world) if resolved.start is None and scored else None
    with world.fail_together():
        assembled, trainable = attach_method(config, loaded, resolved.start)
        # A method may find the run too short for it: before anything is written, and before a pass over the rows.
        step = build_step(config, assembled, trainable, resolved.schedule, resolved.device, resolved.layout)
    if compares and not scores_without_delta:
        # The delta has its first values now, also where a run resumes.
        resolved = replace(resolved, sources=add_base_log_probs(config, sources, assembled.loaded, world))
    return TrainingSetup(resolved=resolved, assembled=assembled, trainable=trainable, step=step, base=base)


def _score_base(resolved: ResolvedRun, loaded: LoadedModel, world: World) -> EvalSnapshot | None:
    """Score the base where the delta changes what it computes from the first step on, such as a random prompt; else return None.

    The ranks share the rows. A net whose operators are split over ranks is compiled with its delta and never computes without: it has
    no scores of the base.
    """
    if find_method(resolved.config.algo).identity:
        return None
    if resolved.layout.split:
        return EvalSnapshot()
    # Ranks with other rows would wait for each other's figures for ever.
    require_consistent_ranks(resolved, loaded, world)
    return SampleEvaluator(resolved.config, loaded, resolved.sources, world=world).evaluate("base")
