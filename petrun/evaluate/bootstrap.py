"""Compare two deltas on the same rows with a paired bootstrap: how certain is the difference between them?

Rows are drawn with replacement, as many as there are and the same for both; each draw gives a difference. The interval holds the
middle 95 % of them; the share of wins is that of draws in which the second is better, and a tie counts half.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3 (percentiles); Koehn, "Statistical Significance
Tests for Machine Translation Evaluation", EMNLP 2004 (paired draws). R rows, N draws.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from petrun.evaluate.figures import Scores
from petrun.evaluate.metrics import METRICS, Metric, text_metrics
from petrun.evaluate.text_formulas import ReferencedAnswer
from petrun.tensors import Array

DRAWS = 2000
_SLOW_DRAWS = 200
"""Draws for a metric that is computed anew from all texts of a draw."""

Figure = Callable[[Array], float]
"""Indices of items, (R,), repeats allowed -> the metric over them."""


@dataclass(frozen=True)
class Sample:
    """A metric as a function of the rows that are drawn."""

    items: int
    value: Figure
    draws: int = DRAWS


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Comparison of the second delta with the first, on one metric."""

    metric: str
    difference: float
    """Figure of the second minus that of the first, over all rows."""
    low: float
    high: float
    """Ends of the 95 % interval of the difference."""
    wins: float
    """Share of draws in which the second is better."""
    draws: int


def forward_samples(scores: Scores, names: Sequence[str]) -> dict[str, Sample]:
    """Return samples of the metrics of one forward pass whose arrays the scores have."""
    arrays = scores.part(scores.counts > 0).arrays
    found: dict[str, Sample] = {}
    for metric in (METRICS[name] for name in names):
        inputs = [arrays[name] for name in metric.inputs]
        whole = [array for array in inputs if array is not None]
        if metric.of_rows is not None and len(whole) == len(inputs):
            found[metric.name] = Sample(len(whole[0]), _of_rows(metric.of_rows, whole))
    return found


def _of_rows(formula: Callable[..., float], arrays: Sequence[Array]) -> Figure:
    return lambda drawn: formula(*(array[drawn] for array in arrays))


def text_samples(answers: Sequence[ReferencedAnswer], metrics: Sequence[Metric]) -> dict[str, Sample]:
    """Return samples of the metrics of generated text. A draw is of prompts, each with all its rows."""
    groups: dict[Hashable, list[ReferencedAnswer]] = {}
    for answer in answers:
        groups.setdefault(answer.prompt, []).append(answer)
    items = list(groups.values())
    return {metric.name: _text_sample(items, metric) for metric in metrics if metric.generated and items}


def _text_sample(items: list[list[ReferencedAnswer]], metric: Metric) -> Sample:
    if metric.corpus is not None:
        formula = metric.corpus([answer for item in items for answer in item])

        # A figure of a corpus, not a mean over its rows. A prompt that is drawn twice counts twice.
        def corpus(drawn: Array) -> float:
            return formula([replace(a, prompt=(i, a.prompt)) for i, j in enumerate(drawn) for a in items[j]])

        return Sample(len(items), corpus, _SLOW_DRAWS)
    weights = np.array([len(item) if metric.mean_of_rows else 1 for item in items], np.float64)
    values = np.array([text_metrics(item, [metric])[metric.name] for item in items])
    return Sample(len(items), lambda drawn: float((values * weights)[drawn].sum() / weights[drawn].sum()))


def compare(first: Mapping[str, Sample], second: Mapping[str, Sample], seed: int = 0) -> list[Comparison]:
    """Compare the second with the first on every metric that both have, on paired draws from `seed`."""
    return [_compared(name, sample, second[name], seed) for name, sample in first.items() if name in second]


def _compared(name: str, first: Sample, second: Sample, seed: int) -> Comparison:
    assert first.items == second.items, "both were scored on the same rows"
    whole = np.arange(first.items)
    rng = np.random.default_rng(seed)
    found = np.empty(first.draws)
    for n in range(first.draws):
        drawn = rng.integers(0, first.items, first.items)
        found[n] = second.value(drawn) - first.value(drawn)
    low, high = np.percentile(found, (2.5, 97.5))
    sign = 1.0 if METRICS[name].higher_is_better else -1.0
    wins = np.mean(sign * found > 0) + 0.5 * np.mean(found == 0)
    difference = second.value(whole) - first.value(whole)
    return Comparison(
        metric=name, difference=difference, low=float(low), high=float(high), wins=float(wins), draws=first.draws
    )
