"""Scores of one pass."""

import numpy as np
import pytest

from petrun.evaluate.bootstrap import forward_samples
from petrun.evaluate.figures import regression_scores
from tests.evaluate.test_row_formulas import PREDICTIONS, TARGETS


def test_regression_scores_leave_out_rows_without_a_target():
    predictions = np.append(PREDICTIONS, 9.0).astype(np.float32)[:, None]
    scores = regression_scores(np.arange(7), np.append(TARGETS, np.nan).astype(np.float32), predictions)
    mean = np.mean((TARGETS - PREDICTIONS) ** 2)
    assert scores.metrics["loss"] == scores.metrics["mse"] == pytest.approx(mean, rel=1e-12)
    assert scores.metrics["pearson"] == pytest.approx(0.5940247187116171, abs=1e-12)
    assert scores.losses[6] == scores.counts[6] == 0
    samples = forward_samples(scores, ["loss", "mse", "pearson", "spearman"])
    whole = np.arange(6)
    assert {name: sample.value(whole) for name, sample in samples.items()} == pytest.approx(scores.metrics)
