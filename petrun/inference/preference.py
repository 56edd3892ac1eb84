"""Keep what the base says of rows of preference, with which a net with a delta is compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from petrun.data.examples.example_set import BASE_LOG_PROBS, ExampleSet
from petrun.evaluate.score import RowOutputs
from petrun.tensors import Array

_CHOSEN, _REJECTED = 0, 3
"""Columns of RowOutputs.values with the sums of cross entropies."""


def log_probs(outputs: RowOutputs) -> Array:
    """Return the log-probabilities of the chosen and the rejected answer of each row, sums over their tokens: (R, 2) float64, nats."""
    values: Array = -outputs.values[:, [_CHOSEN, _REJECTED]]
    return values


def with_base_log_probs(rows: ExampleSet, outputs: RowOutputs) -> ExampleSet:
    """Return the rows with what the base gave for them. `outputs`: of every row; a row may be in the set more than once."""
    places = np.searchsorted(outputs.rows, rows.per_row["row"])
    return replace(rows, per_row={**rows.per_row, BASE_LOG_PROBS: log_probs(outputs)[places]})


def desirable_of(rows: ExampleSet, numbers: Array) -> Array | None:
    """Return whether the answers of the rows with these numbers are desirable, (R,) int32 1 or 0; None where rows have two answers."""
    if not rows.is_unpaired:
        return None
    found: Array = rows.per_row["label"][_places(rows, numbers)]
    return found


def base_log_probs_of(rows: ExampleSet, numbers: Array) -> Array | None:
    """Return what the base gave for the rows with these numbers, (R, 2) float64; None where that was not computed."""
    if BASE_LOG_PROBS not in rows.per_row:
        return None
    found: Array = rows.per_row[BASE_LOG_PROBS][_places(rows, numbers)]
    return found


def _places(rows: ExampleSet, numbers: Array) -> Array:
    order = np.argsort(rows.per_row["row"], kind="stable")
    places: Array = order[np.searchsorted(rows.per_row["row"], numbers, sorter=order)]
    return places
