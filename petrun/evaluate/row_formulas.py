"""Compute metrics on numpy arrays, with one value or a few for each row.

R rows, C classes. Every figure is a float; accuracies are fractions of 1.
"""

from __future__ import annotations

import math

import numpy as np

from petrun.tensors import Array

# Sums over rows. `losses` (R,) float64, `counts` (R,) of the scored items of each row, their sum above 0.


def mean_loss(losses: Array, counts: Array) -> float:
    """sum(losses) / sum(counts)."""
    return float(losses.sum() / counts.sum())


def perplexity_of(losses: Array, counts: Array) -> float:
    """exp(sum(losses) / sum(counts))."""
    return perplexity(mean_loss(losses, counts))


def hit_share(hits: Array, counts: Array) -> float:
    """sum(hits) / sum(counts)."""
    return float(hits.sum() / counts.sum())


# Preferences. One value for each row and answer, (R,) float64 with R > 0.


def larger_share(chosen: Array, rejected: Array) -> float:
    """sum(chosen > rejected) / R."""
    return float(np.mean(chosen > rejected))


def mean_difference(chosen: Array, rejected: Array) -> float:
    """sum(chosen - rejected) / R."""
    return float(np.mean(chosen - rejected))


def mean_value(values: Array) -> float:
    """sum(values) / R."""
    return float(np.mean(values))


def mean_of_kind(values: Array, kind: Array, wanted: int) -> float:
    """Mean of the values where kind == wanted, NaN where there is none, as in a sample of rows drawn with replacement."""
    return float(np.mean(values[kind == wanted])) if (kind == wanted).any() else math.nan


def desirable_mean(values: Array, desirable: Array) -> float:
    """sum(desirable values) / (number of desirable rows)."""
    return mean_of_kind(values, desirable, 1)


def undesirable_mean(values: Array, desirable: Array) -> float:
    """sum(undesirable values) / (number of undesirable rows)."""
    return mean_of_kind(values, desirable, 0)


def difference_of_kinds(values: Array, desirable: Array) -> float:
    """desirable_mean - undesirable_mean."""
    return desirable_mean(values, desirable) - undesirable_mean(values, desirable)


def positive_mean(values: Array) -> float:
    """max(0, sum(values) / R)."""
    return max(0.0, mean_value(values))


# Entities of tagged rows. (R,) float64 each.


def share_of(part: Array, whole: Array) -> float:
    """sum(part) / sum(whole); 0 where that sum is 0."""
    return float(part.sum() / whole.sum()) if whole.sum() > 0 else 0.0


def entity_f1(right: Array, predicted: Array, labelled: Array) -> float:
    """2 right / (predicted + labelled), of the sums over all rows; 0 where both are 0."""
    return 2.0 * share_of(right, predicted + labelled)


# Classification. Labels and predictions are (R,) integer arrays with R > 0.


def accuracy(labels: Array, predictions: Array) -> float:
    """sum(prediction == label) / R."""
    return float(np.mean(labels == predictions))


def f1_macro(labels: Array, predictions: Array) -> float:
    """Mean over the classes that occur, as label or as prediction, of 2 TP / (2 TP + FP + FN).

    A class that occurs on one side only counts with 0; one that occurs on neither is left out, as
    scikit-learn does, so no denominator is 0.
    """
    scores = []
    for label in np.union1d(labels, predictions):
        hits = np.count_nonzero((labels == label) & (predictions == label))
        scores.append(2 * hits / (np.count_nonzero(labels == label) + np.count_nonzero(predictions == label)))
    return float(np.mean(scores))


def matthews(labels: Array, predictions: Array) -> float:
    """(c R - sum_k p_k t_k) / sqrt((R^2 - sum_k p_k^2) (R^2 - sum_k t_k^2)): c right rows, t_k rows of class
    k, p_k predicted as k.

    0 where the denominator is 0: all labels, or all predictions, are of one class.
    Source: Gorodkin, Comput. Biol. Chem. 28 (2004), eq. (8); for two classes Matthews' phi.
    """
    classes = np.union1d(labels, predictions)
    true = [int(np.count_nonzero(labels == k)) for k in classes]
    predicted = [int(np.count_nonzero(predictions == k)) for k in classes]
    rows, right = len(labels), int(np.count_nonzero(labels == predictions))
    spread = (rows**2 - sum(p * p for p in predicted)) * (rows**2 - sum(t * t for t in true))
    if spread == 0:
        return 0.0
    return (right * rows - sum(p * t for p, t in zip(predicted, true, strict=True))) / math.sqrt(spread)


# Regression. Targets and predictions are (R,) float64 arrays with R > 0.


def pearson(targets: Array, predictions: Array) -> float:
    """sum (t - mean t)(p - mean p) / sqrt(sum (t - mean t)^2 sum (p - mean p)^2), in [-1, 1].

    0 where all targets, or all predictions, are the same: no correlation is defined there (SciPy has NaN). Source: Pearson, Proc. R. Soc.
    Lond. 58 (1895).
    """
    if np.ptp(targets) == 0 or np.ptp(predictions) == 0:
        return 0.0
    # Scaled to 1 before squaring: squares of very small or large numbers leave float64's range.
    t, p = (values / np.abs(values).max() for values in (targets - targets.mean(), predictions - predictions.mean()))
    value = float((t * p).sum() / math.sqrt(float((t * t).sum()) * float((p * p).sum())))
    return min(1.0, max(-1.0, value))


def spearman(targets: Array, predictions: Array) -> float:
    """Pearson's correlation of the ranks; equal values share the mean of their ranks. Source: Spearman, Am. J. Psychol. 15 (1904)."""
    return pearson(_ranks(targets), _ranks(predictions))


def _ranks(values: Array) -> Array:
    """(R,) -> (R,) float64 ranks from 1; equal values get the mean of the ranks that they take together."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2.0)[place]
    return ranks


def log_softmax(logits: Array) -> Array:
    """(..., C) of any float dtype -> (..., C) float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def probabilities(logits: Array) -> Array:
    """softmax over the last axis, (..., C) -> (..., C) float64."""
    result: Array = np.exp(log_softmax(logits))
    return result


def perplexity(loss: float) -> float:
    """exp(loss); infinite where that overflows a double."""
    return math.exp(loss) if loss < 709.0 else math.inf
