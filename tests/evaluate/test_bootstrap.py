"""Paired differences between two deltas, against numbers worked out by themselves."""

import numpy as np
import pytest

from petrun.evaluate.bootstrap import DRAWS, compare, forward_samples, text_samples
from petrun.evaluate.figures import Scores, class_scores
from petrun.evaluate.metrics import METRICS, text_metrics
from petrun.evaluate.text_formulas import ReferencedAnswer

RNG = np.random.default_rng(0)
ROWS = 60


def token_scores(shift):
    counts = np.random.default_rng(1).integers(0, 9, ROWS)
    losses = counts * (1.0 + np.random.default_rng(2).normal(size=ROWS) * 0.1 + shift)
    return Scores(metrics={}, rows=np.arange(ROWS), losses=losses, counts=counts, hits=counts // 2)


def by_hand(first, second, seed):
    """Draw by draw; rows without a scored token are no rows."""
    kept = np.flatnonzero(first.counts > 0)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS):
        drawn = kept[rng.integers(0, len(kept), len(kept))]
        a, b = (s.losses[drawn].sum() / s.counts[drawn].sum() for s in (first, second))
        found.append(b - a)
    return np.array(found)


def test_token_metrics_against_draws_by_hand():
    first, second = token_scores(0.0), token_scores(0.02 * np.random.default_rng(3).normal(size=ROWS) - 0.004)
    names = ["loss", "perplexity", "token_accuracy", "bleu"]
    found = compare(forward_samples(first, names), forward_samples(second, names), seed=7)
    assert [c.metric for c in found] == names[:3]
    loss, perplexity, hits = found
    wanted = by_hand(first, second, 7)
    assert (loss.low, loss.high) == pytest.approx(np.percentile(wanted, (2.5, 97.5)), abs=1e-12)
    # Lower is better.
    assert loss.wins == pytest.approx((wanted < 0).mean(), abs=1e-12) and 0.1 < loss.wins < 1.0
    a, b = (s.losses.sum() / s.counts.sum() for s in (first, second))
    assert loss.difference == pytest.approx(b - a, abs=1e-12)
    assert perplexity.difference == pytest.approx(np.exp(b) - np.exp(a), abs=1e-9)
    # Equal on every draw: neither wins.
    assert (hits.difference, hits.low, hits.high, hits.wins) == (0.0, 0.0, 0.0, 0.5)
    again = compare(forward_samples(first, names), forward_samples(second, names), seed=7)
    other = compare(forward_samples(first, names), forward_samples(second, names), seed=8)
    assert again == found and other != found


def test_class_metrics_are_those_of_the_scorer():
    labels = RNG.integers(0, 3, ROWS)
    labels[:5] = -100
    logits = RNG.normal(size=(ROWS, 3)).astype(np.float32)
    right = logits + 3 * np.eye(3, dtype=np.float32)[np.where(labels < 0, 0, labels)]
    first, second = (class_scores(np.arange(ROWS), labels, values) for values in (logits, right))
    names = list(first.metrics)
    samples = forward_samples(first, names)
    assert set(samples) == {"accuracy", "f1_macro", "matthews", "loss"}
    for name, sample in samples.items():
        assert sample.value(np.arange(sample.items)) == pytest.approx(first.metrics[name], abs=1e-12)
    for c in compare(samples, forward_samples(second, names)):
        better = 1 if METRICS[c.metric].higher_is_better else -1
        assert better * c.low > 0 and better * c.difference > 0 and c.wins == 1.0


def said(prompt, text, reference):
    return ReferencedAnswer(prompt=prompt, text=text, reference=reference)


def test_texts_are_drawn_by_prompt():
    """Prompt p has two references: its rows are drawn together. A mean over rows (exact match) or prompts."""
    pairs = [("p", "one", "one"), ("p", "one", "two"), ("q", "x", "y"), ("r", "z", "z")]
    answers = [said(*row) for row in pairs]
    sample = text_samples(answers, [METRICS["exact_match"], METRICS["loss"]])
    assert list(sample) == ["exact_match"] and sample["exact_match"].items == 3
    value = sample["exact_match"].value
    assert value(np.arange(3)) == text_metrics(answers, [METRICS["exact_match"]])["exact_match"] == 0.75
    assert value(np.array([1, 1, 0])) == 0.5 and value(np.array([1, 1, 1])) == 0.0
    assert text_samples([], [METRICS["exact_match"]]) == {}


def test_bleu_is_computed_from_the_texts_that_were_drawn():
    pytest.importorskip("sacrebleu")
    answers = [said(i, f"the cat sat on the mat {i}", f"the cat sat on a mat {i % 2}") for i in range(4)]
    (sample,) = text_samples(answers, [METRICS["bleu"]]).values()
    assert sample.value(np.arange(4)) == pytest.approx(text_metrics(answers, [METRICS["bleu"]])["bleu"], abs=1e-9)
    twice = [
        said((i, "k"), a.text, a.reference) for i, a in enumerate((answers[0], answers[0], answers[3], answers[1]))
    ]
    wanted = text_metrics(twice, [METRICS["bleu"]])["bleu"]
    assert sample.value(np.array([0, 0, 3, 1])) == pytest.approx(wanted, abs=1e-9)
