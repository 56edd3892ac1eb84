"""Set up a run on rows with a chosen and a rejected answer: its loss, and what the base says of the rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from petrun.cluster.world import World
from petrun.config.schema import RunConfig
from petrun.data.examples.example_set import BASE_LOG_PROBS, DESIRABLE, ExampleSet
from petrun.delta import find_method
from petrun.errors import ConfigError, ModelError
from petrun.evaluate.score import Scorer
from petrun.inference.evaluator import Evaluator
from petrun.inference.preference import with_base_log_probs
from petrun.models.base import LoadedModel
from petrun.parallel.layout import Layout
from petrun.train.preference import PREFERENCE_LOSSES, PreferenceKind, PreferenceLoss, PreferenceSettings
from petrun.train.unpaired import KahnemanTversky, UnpairedLoss
from petrun.training.setup.sources import Sources
from petrun.typing import Cell


def kind_of(config: RunConfig) -> PreferenceKind:
    """Return the loss that the settings name."""
    return PREFERENCE_LOSSES[config.preference.loss]


def loss_inputs(config: RunConfig) -> tuple[str, ...]:
    """Return the names of what the loss takes beside the targets and the net's inputs."""
    kind = kind_of(config)
    return (*((BASE_LOG_PROBS,) if kind.needs_base else ()), *((DESIRABLE,) if kind.unpaired else ()))


def require_possible(config: RunConfig, layout: Layout, rows: ExampleSet) -> None:
    """Raise ConfigError where the rows' answers cannot be compared: split operators, packing, a method with a loss of its own, a loss for
    other rows, batches of one row."""
    loss, kind = config.preference.loss, kind_of(config)
    if kind.unpaired != rows.is_unpaired:
        found = "one answer and a label" if rows.is_unpaired else "a chosen and a rejected answer"
        fit = " or ".join(name for name, each in PREFERENCE_LOSSES.items() if each.unpaired == rows.is_unpaired)
        raise ConfigError(f"--loss {loss}: the rows of {rows.files[0]} have {found}", hint=f"Give --loss {fit}.")
    if kind.unpaired and config.train.batch_size * layout.dp == 1:
        raise ConfigError(
            f"--batch-size 1: {loss} compares each answer with the mean over the rows of a batch",
            hint="Give 2 or more.",
        )
    if layout.split:
        raise ConfigError(
            f"--parallel {layout}: the answers of a preference are compared by ranks that hold the full model",
            hint="Use dp alone.",
        )
    if config.data.pack:
        raise ConfigError("--pack: a row of preference fills a sequence with its two answers", hint="Leave it out.")
    if find_method(config.algo).needs_classes:
        raise ConfigError(
            f"--algo {config.algo} compares two predictions of one row, and preference has a loss of its own",
            hint="Choose an --algo without it.",
        )


def build_preference_loss(config: RunConfig, loaded: LoadedModel, layout: Layout) -> Cell:
    """Build the loss of the net. Raises ModelError for a net that does not take segment_ids, which tell the answers apart."""
    if "segment_ids" not in loaded.inputs:
        raise ModelError(
            f"--task preference: the net takes {', '.join(loaded.inputs)}, and segment_ids tell the two answers of a row apart"
        )
    kind, given = kind_of(config), config.preference
    assert given.beta is not None, "resolve settles it"
    settings = PreferenceSettings(
        beta=given.beta,
        gamma=given.gamma,
        label_smoothing=given.label_smoothing,
        sft_weight=given.sft_weight,
        desirable_weight=given.desirable_weight,
        undesirable_weight=given.undesirable_weight,
    )
    if kind.unpaired:
        cell = KahnemanTversky(settings, many_ranks=layout.dp > 1)
        return UnpairedLoss(loaded.net, cell, loaded.inputs.index("segment_ids"))
    return PreferenceLoss(loaded.net, kind, settings, loaded.inputs.index("segment_ids"))


def add_base_log_probs(config: RunConfig, sources: Sources, loaded: LoadedModel, world: World) -> Sources:
    """Return the rows with the log-probabilities of their answers by the net that the run begins from: the base, or the base with the
    delta of --init-delta at its first values, as trl has it.

    Training rows have them where the loss needs them, evaluation rows always. Every rank must call it at the same point.
    """
    # One for both sets: a shape that both have is compiled once.
    scorer = Scorer(loaded.net, loaded.inputs, sources.train.task)
    train, evaluation = sources.train, sources.evaluation
    if kind_of(config).needs_base:
        train = _scored_by_base(config, train, loaded, scorer, world, "base")
    if evaluation is not None:
        evaluation = _scored_by_base(config, evaluation, loaded, scorer, world, "base, eval")
    return replace(sources, train=train, evaluation=evaluation, scorer=scorer)


def _scored_by_base(
    config: RunConfig, rows: ExampleSet, loaded: LoadedModel, scorer: Scorer, world: World, label: str
) -> ExampleSet:
    _, first = np.unique(rows.per_row["row"], return_index=True)
    evaluator = Evaluator(
        loaded=loaded,
        task=rows.task,
        metrics=(),
        # File weights repeat rows.
        examples=rows.take(np.sort(first)),
        prompts=None,
        tokenizer=None,
        batch_size=config.eval.batch_size or config.train.batch_size,
        buckets=config.data.buckets,
        seq_len=config.data.seq_len,
        max_new_tokens=config.eval.max_new_tokens,
        scorer=scorer,
        world=world,
    )
    evaluator.forward(label)
    assert evaluator.outputs is not None
    return with_base_log_probs(rows, evaluator.outputs)
