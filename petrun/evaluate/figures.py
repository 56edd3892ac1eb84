"""Compute the figures of one scored pass: from a net's outputs for each row, the metrics of its task.

R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from petrun.data.tasks import PREFERENCE, TOKENS, UNPAIRED
from petrun.errors import DataError
from petrun.evaluate.entities import entity_counts
from petrun.evaluate.metrics import REGRESSION, row_metrics
from petrun.evaluate.row_formulas import log_softmax
from petrun.tensors import Array
from petrun.tensors.targets import is_scored


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Figures of one pass, and the arrays that they are computed from, rows in the data's order."""

    metrics: dict[str, float]
    """All metrics of the task that need no generation, over the rows that have something to score."""
    rows: Array
    """(R,) int64."""
    losses: Array
    """(R,) float64: sum of cross entropies over the row's scored items, or its squared error; 0 where it has none."""
    counts: Array
    """(R,) int64: scored tokens of the row; for a classifier 1, or 0 without a label."""
    hits: Array
    """(R,) int64: how many of them are the argmax; 0 in regression."""
    labels: Array | None = None
    """(R,) int64, -100 = none; for regression the targets, float64, NaN = none. None for decoders, as are the next two."""
    predictions: Array | None = None
    """(R,) int64; for regression float64."""
    probabilities: Array | None = None
    """(R, C) float32."""
    chosen_means: Array | None = None
    """(R,) float64: mean log-probability of the chosen answer's tokens, in nats; None, as are the next three, but for preferences."""
    rejected_means: Array | None = None
    chosen_gains: Array | None = None
    """(R,) float64: log-probability of the chosen answer minus that of the base, in nats; 0 for the base itself."""
    rejected_gains: Array | None = None
    answer_gains: Array | None = None
    """(R,) float64: as chosen_gains, of the one answer of each row; None, as are the next two, but for preferences with one answer."""
    mismatched_gains: Array | None = None
    """(R,) float64: the same of another row's answer to the prompt."""
    desirable: Array | None = None
    """(R,) int32: 1 where the answer is desirable, 0 where it is not."""
    right_entities: Array | None = None
    """(R,) float64: entities of TOKENS that are both predicted and labelled; None, as are the next two, for other tasks."""
    predicted_entities: Array | None = None
    labelled_entities: Array | None = None

    @property
    def arrays(self) -> dict[str, Array | None]:
        """Return every array by its name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "metrics"}

    def part(self, chosen: Array) -> Scores:
        """Return the rows where `chosen` (R,) is true, without figures."""
        # The checker cannot see that the arrays that are never None stay so.
        parts: Any = {name: None if array is None else array[chosen] for name, array in self.arrays.items()}
        return Scores(metrics={}, **parts)


def with_metrics(scores: Scores, task: str) -> Scores:
    """Return the same scores with all metrics of the task that need no generation."""
    return replace(scores, metrics=row_metrics(scores.part(scores.counts > 0).arrays, task))


def class_scores(rows: Array, labels: Array, logits: Array) -> Scores:
    """Compute the figures of a classifier from rows (R,), labels (R,) with -100 = none, and logits (R, C).

    loss = mean over labelled rows of -log softmax(logits)[label]. Raises DataError when no row is labelled.
    """
    log_probs = log_softmax(logits)
    predictions = np.argmax(logits, axis=-1).astype(np.int64)
    known = is_scored(labels)
    require_scored(int(np.count_nonzero(known)), len(rows), "label")
    picked = np.take_along_axis(log_probs, np.where(known, labels, 0)[:, None], axis=1)[:, 0]
    losses = np.where(known, -picked, 0.0)
    hits = (known & (predictions == labels)).astype(np.int64)
    probabilities = np.exp(log_probs).astype(np.float32)
    scores = Scores(
        metrics={},
        rows=rows,
        losses=losses,
        counts=known.astype(np.int64),
        hits=hits,
        labels=labels,
        predictions=predictions,
        probabilities=probabilities,
    )
    return with_metrics(scores, "classify")


def regression_scores(rows: Array, targets: Array, predictions: Array) -> Scores:
    """Compute the figures of a net with one output from rows (R,), targets (R,) float32 with NaN = none, and predictions (R, 1).

    loss = mean over rows with a target of (prediction - target)^2. Raises DataError when no row has one.
    """
    known, guessed = is_scored(targets), predictions[:, 0].astype(np.float64)
    require_scored(int(np.count_nonzero(known)), len(rows), "target")
    true = targets.astype(np.float64)
    losses = np.where(known, (guessed - np.where(known, true, 0.0)) ** 2, 0.0)
    scores = Scores(
        metrics={},
        rows=rows,
        losses=losses,
        counts=known.astype(np.int64),
        hits=np.zeros(len(rows), np.int64),
        labels=true,
        predictions=guessed,
    )
    return with_metrics(scores, REGRESSION)


def preference_scores(rows: Array, values: Array, base: Array | None, desirable: Array | None = None) -> Scores:
    """Compute the figures of a decoder on rows with a chosen and a rejected answer; with one answer, `desirable`, see unpaired_scores.

    Inputs: rows (R,); values (R, 6) float64: sum of cross entropies, scored tokens and hits of the chosen answer, then of the rejected one;
    base (R, 2): log-probabilities of both answers by the base, or None where `values` are the base's own.
    A row that truncation left without one of its answers counts for nothing. Raises DataError when no row has both.
    """
    if desirable is not None:
        return unpaired_scores(rows, values, base, desirable)
    losses, counts, hits, other_losses, other_counts, _ = values.T
    complete = (counts > 0) & (other_counts > 0)
    require_scored(int(np.count_nonzero(complete)), len(rows), "pair of answers")
    log_probs = -np.stack([losses, other_losses], axis=1)
    gains = np.zeros_like(log_probs) if base is None else log_probs - base
    means = log_probs / np.maximum(np.stack([counts, other_counts], axis=1), 1)
    scores = Scores(
        metrics={},
        rows=rows,
        losses=np.where(complete, losses, 0.0),
        counts=np.where(complete, counts, 0).astype(np.int64),
        hits=np.where(complete, hits, 0).astype(np.int64),
        chosen_means=means[:, 0],
        rejected_means=means[:, 1],
        chosen_gains=gains[:, 0],
        rejected_gains=gains[:, 1],
    )
    return with_metrics(scores, PREFERENCE)


def unpaired_scores(rows: Array, values: Array, base: Array | None, desirable: Array) -> Scores:
    """Compute the figures of a decoder on rows with one answer: desirable (R,) 1 or 0; the others as for preference_scores, with another
    row's answer for the rejected one. Losses are those of all answers. Raises DataError where one kind of rows is missing."""
    losses, counts, hits, other_losses, other_counts, _ = values.T
    complete = (counts > 0) & (other_counts > 0)
    for wanted, unit in ((1, "desirable answer"), (0, "undesirable answer")):
        require_scored(int(np.count_nonzero(complete & (desirable == wanted))), len(rows), unit)
    log_probs = -np.stack([losses, other_losses], axis=1)
    gains = np.zeros_like(log_probs) if base is None else log_probs - base
    scores = Scores(
        metrics={},
        rows=rows,
        losses=np.where(complete, losses, 0.0),
        counts=np.where(complete, counts, 0).astype(np.int64),
        hits=np.where(complete, hits, 0).astype(np.int64),
        answer_gains=gains[:, 0],
        mismatched_gains=gains[:, 1],
        desirable=desirable,
    )
    return with_metrics(scores, UNPAIRED)


def tag_figures(names: Sequence[str], labels: Array, logits: Array) -> Array:
    """Compute (6,) float64 of one row of TOKENS: sum of cross entropies, tags, right tags, and of entity_counts the entities that are
    right, predicted and labelled. labels (W,), logits (W, C) of the words that have a tag."""
    predictions = np.argmax(logits, axis=-1) if len(labels) else labels
    losses = -np.take_along_axis(log_softmax(logits), labels[:, None], axis=1) if len(labels) else np.zeros(0)
    counts = entity_counts(names, labels, predictions)
    return np.array([losses.sum(), len(labels), np.count_nonzero(predictions == labels), *counts], np.float64)


def tag_scores(rows: Array, values: Array) -> Scores:
    """Compute the figures of TOKENS from rows (R,) and values (R, 6), see tag_figures. Raises DataError when no word has a tag."""
    losses, counts, hits, right, predicted, labelled = values.T
    require_scored(int(counts.sum()), len(rows), "tag")
    scores = Scores(
        metrics={},
        rows=rows,
        losses=losses,
        counts=counts.astype(np.int64),
        hits=hits.astype(np.int64),
        right_entities=right,
        predicted_entities=predicted,
        labelled_entities=labelled,
    )
    return with_metrics(scores, TOKENS)


def require_scored(count: int, rows: int, unit: str) -> int:
    """Return the count. Raises DataError where it is 0."""
    if count == 0:
        what = "the data holds no rows" if rows == 0 else f"none of the {rows} rows has a {unit} to score"
        raise DataError(
            f"nothing to evaluate: {what}",
            hint="Evaluation needs labels, or completions that --seq-len does not cut off.",
        )
    return count
