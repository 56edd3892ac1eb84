"""Formulas on rows against values by hand, plain Python and SciPy."""

import math
from collections import Counter

import numpy as np
import pytest

from petrun.evaluate.row_formulas import (
    accuracy,
    f1_macro,
    log_softmax,
    matthews,
    pearson,
    perplexity,
    probabilities,
    spearman,
)


def test_two_classes_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    guesses = np.array([1, 1, 0, 0, 0, 1, 0, 1])
    # TP 3, FN 1, FP 1, TN 3.
    assert accuracy(labels, guesses) == 0.75
    assert f1_macro(labels, guesses) == pytest.approx((2 * 3 / 8 + 2 * 3 / 8) / 2)
    assert matthews(labels, guesses) == pytest.approx((3 * 3 - 1 * 1) / math.sqrt(4 * 4 * 4 * 4))
    assert matthews(labels, 1 - labels) == pytest.approx(-1.0)
    assert matthews(labels, labels) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_many_classes_against_their_definitions(seed):
    rng = np.random.default_rng(seed)
    labels, guesses = rng.integers(0, 5, 60), rng.integers(0, 6, 60)
    classes = sorted(set(labels.tolist()) | set(guesses.tolist()))
    table = Counter(zip(labels.tolist(), guesses.tolist(), strict=True))
    f1 = []
    for k in classes:
        precision = table[k, k] / max(1, sum(table[j, k] for j in classes))
        recall = table[k, k] / max(1, sum(table[k, j] for j in classes))
        f1.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    assert f1_macro(labels, guesses) == pytest.approx(sum(f1) / len(f1))
    # Gorodkin's R_K in its first form: covariances of the one-hot matrices.
    x = np.array([[g == k for k in classes] for g in guesses], float)
    y = np.array([[t == k for k in classes] for t in labels], float)

    def covariance(a, b):
        return ((a - a.mean(0)) * (b - b.mean(0))).sum()

    assert matthews(labels, guesses) == pytest.approx(covariance(x, y) / math.sqrt(covariance(x, x) * covariance(y, y)))


def test_one_class_only_and_zero_denominators():
    ones = np.array([1, 1, 1])
    assert (accuracy(ones, ones), f1_macro(ones, ones), matthews(ones, ones)) == (1.0, 1.0, 0.0)
    zeros = np.zeros(3, int)
    assert (accuracy(ones, zeros), f1_macro(ones, zeros), matthews(ones, zeros)) == (0.0, 0.0, 0.0)
    # Constant guesses: the class that is never guessed scores 0, the other 2*1/(1+3).
    mixed = np.array([0, 1, 1])
    assert f1_macro(mixed, zeros) == pytest.approx((2 * 1 / (1 + 3) + 0) / 2)
    assert matthews(mixed, zeros) == 0.0


def test_log_softmax_is_stable():
    logits = np.array([[1e4, 0.0, -1e4], [0.0, math.log(2.0), math.log(3.0)]], np.float32)
    assert log_softmax(logits)[0] == pytest.approx([0.0, -1e4, -2e4])
    assert probabilities(logits)[1] == pytest.approx([1 / 6, 2 / 6, 3 / 6], rel=1e-6)
    assert log_softmax(logits).dtype == np.float64


def test_perplexity():
    assert perplexity(math.log(7.0)) == pytest.approx(7.0)
    assert perplexity(1e4) == math.inf


# scipy.stats.pearsonr and spearmanr of these numbers (ties on both sides).
TARGETS = np.array([1.0, 2.0, 2.0, 3.5, -1.0, 0.0])
PREDICTIONS = np.array([0.5, 2.5, 1.0, 1.0, -0.5, 1.0])


def test_correlations_are_scipys():
    assert pearson(TARGETS, PREDICTIONS) == pytest.approx(0.5940247187116171, abs=1e-12)
    assert spearman(TARGETS, PREDICTIONS) == pytest.approx(0.6468431588153823, abs=1e-12)
    # Scale and offset change nothing, not even where squares leave float64's range.
    assert pearson(TARGETS * 1e200, PREDICTIONS * -1e-200) == pytest.approx(-0.5940247187116171, abs=1e-12)
    assert spearman(TARGETS, np.exp(PREDICTIONS)) == pytest.approx(0.6468431588153823, abs=1e-12)
    assert pearson(TARGETS, np.full(6, 2.5)) == spearman(np.zeros(6), PREDICTIONS) == 0.0
