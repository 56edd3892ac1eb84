"""Every formula against hand-computed values or ten lines of plain Python, and every name."""

import itertools
import math
import sys
from collections import Counter

import numpy as np
import pytest

from petrun.errors import ConfigError, SetupError
from petrun.evaluate.bootstrap import forward_samples
from petrun.evaluate.figures import regression_scores
from petrun.evaluate.metrics import METRICS, best_metric, is_better, select_metrics, text_metrics
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
from petrun.evaluate.text_formulas import Answer, bleu, exact_match, rouge


def names(metrics):
    return [m.name for m in metrics]


def said(prompt, text, reference):
    return Answer(prompt=prompt, text=text, reference=reference)


def test_all_metrics_are_there():
    assert set(METRICS) == {
        "accuracy", "f1_macro", "matthews", "loss", "mse", "pearson", "spearman", "perplexity", "token_accuracy",
        "exact_match", "bleu", "rouge1", "rouge2", "rougeL",
    }  # fmt: skip
    assert all(name == metric.name for name, metric in METRICS.items())
    assert {m.name for m in METRICS.values() if not m.higher_is_better} == {"loss", "mse", "perplexity"}


@pytest.mark.parametrize(
    ("asked", "task", "meant"),
    [
        ((), "classify", ["accuracy", "f1_macro", "matthews", "loss"]),
        ((), "regression", ["loss", "mse", "pearson", "spearman"]),
        ((), "lm", ["loss", "perplexity", "token_accuracy"]),
        ((), "instruct", ["loss", "perplexity", "token_accuracy"]),
        (("f1", "mcc"), "classify", ["f1_macro", "matthews"]),
        (("F1", "Accuracy", "acc"), "classify", ["f1_macro", "accuracy"]),
        (("ppl",), "lm", ["perplexity"]),
        (("rouge",), "instruct", ["rouge1", "rouge2", "rougeL"]),
        (("rougel", "bleu", "em"), "instruct", ["rougeL", "bleu", "exact_match"]),
        (("all",), "classify", ["accuracy", "f1_macro", "matthews", "loss"]),
        (
            ("all",),
            "instruct",
            ["loss", "perplexity", "token_accuracy", "exact_match", "bleu", "rouge1", "rouge2", "rougeL"],
        ),
        (("rouge2", "rouge"), "instruct", ["rouge2", "rouge1", "rougeL"]),
    ],
)
def test_names_aliases_and_groups(asked, task, meant):
    assert names(select_metrics(asked, task)) == meant


def test_unknown_and_unsuited_metrics_are_named_together():
    with pytest.raises(ConfigError) as caught:
        select_metrics(["acuracy", "bleu", "f1"], "classify")
    assert caught.value.message.splitlines() == [
        "metric acuracy is unknown. Did you mean accuracy, token_accuracy, acc?",
        "metric bleu is for instruct, not for classify",
    ]
    assert caught.value.hint == "Metrics of classify: accuracy, f1_macro, matthews, loss."
    with pytest.raises(ConfigError, match="metric accuracy is for classify, not for lm"):
        select_metrics(["accuracy"], "lm")


def test_best_metric():
    assert best_metric(None, "classify").name == "accuracy"
    assert best_metric(None, "instruct").name == "loss"
    assert best_metric("mcc", "classify").name == "matthews"
    with pytest.raises(ConfigError, match="needs generation") as caught:
        best_metric("bleu", "instruct")
    assert "loss, perplexity, token_accuracy" in caught.value.hint
    with pytest.raises(ConfigError, match="several"):
        best_metric("rouge", "instruct")
    with pytest.raises(ConfigError, match="unknown"):
        best_metric("zzz", "lm")


def test_is_better_knows_the_direction_and_nan():
    up, down = METRICS["accuracy"], METRICS["loss"]
    assert is_better(up, 0.6, 0.5) and not is_better(up, 0.5, 0.5) and not is_better(up, 0.4, 0.5)
    assert is_better(down, 0.4, 0.5) and not is_better(down, 0.5, 0.5)
    assert not is_better(down, math.nan, 0.5) and is_better(down, 0.5, math.nan)


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


def test_exact_match_strips_and_accepts_any_reference_of_the_prompt():
    answers = [
        said("p1", " yes \n", "yes"),
        said("p2", "b", "a"),
        said("p2", "b", "b"),
        said("p3", "Yes", "yes"),
        said("p4", "", ""),
    ]
    assert exact_match(answers) == 4 / 5


def ngram_bleu(texts, references):
    """Corpus BLEU of unpunctuated lower-case text, from the paper: clipped n-gram precisions and brevity penalty."""
    hits, counts = [0] * 4, [0] * 4
    length = best_length = 0
    for text, refs in zip(texts, references, strict=True):
        words = text.split()
        length += len(words)
        best_length += min((abs(len(r.split()) - len(words)), len(r.split())) for r in refs)[1]
        for n in range(1, 5):

            def grams(tokens, n=n):
                return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))

            most = Counter()
            for ref in refs:
                most |= grams(ref.split())
            hits[n - 1] += sum((grams(words) & most).values())
            counts[n - 1] += max(0, len(words) - n + 1)
    penalty = 1.0 if length > best_length else math.exp(1 - best_length / length)
    return 100 * penalty * math.exp(sum(math.log(h / c) for h, c in zip(hits, counts, strict=True)) / 4)


def test_bleu_against_its_formula_with_uneven_references():
    rows = [
        ("a", "the cat sat on the mat today", ["the cat sat on the mat", "a cat sat on the mat today"]),
        ("b", "there is a small house by the lake", ["there is a house by the lake"]),
        (
            "c",
            "the food is cheap and the place is near the river",
            ["the food is cheap", "cheap food near the river", "the place is near the river"],
        ),
    ]
    answers = [said(prompt, text, ref) for prompt, text, refs in rows for ref in refs]
    expected = ngram_bleu([text for _, text, _ in rows], [refs for *_, refs in rows])
    assert 30 < expected < 95
    assert bleu(answers) == pytest.approx(expected, rel=1e-9)
    # Rows of one prompt need not lie together, and a repeated reference changes nothing.
    order = [answers[i] for i in (3, 0, 2, 4, 1, 5, 0, 5)]
    assert bleu(order) == pytest.approx(expected, rel=1e-9)


def test_bleu_counts_a_prompt_once():
    once = [
        said("a", "the cat sat on the mat", "the cat sat on the mat"),
        said("b", "no", "a much longer reference text"),
    ]
    twice = [*once, said("a", "the cat sat on the mat", "some cat sat on the mat")]
    assert bleu(once) == bleu(twice)
    apart = [*once, said("c", "the cat sat on the mat", "some cat sat on the mat")]
    assert bleu(apart) != pytest.approx(bleu(once))


def test_empty_hypotheses_score_zero():
    answers = [said("a", "", "some text"), said("b", "  ", "more text")]
    metrics = select_metrics(["exact_match", "bleu", "rouge"], "instruct")
    assert text_metrics(answers, metrics) == {
        "exact_match": 0.0,
        "bleu": 0.0,
        "rouge1": 0.0,
        "rouge2": 0.0,
        "rougeL": 0.0,
    }


def longest_common(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for (i, x), (j, y) in itertools.product(enumerate(a), enumerate(b)):
        table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_rouge_against_its_formulas_and_the_best_reference():
    text, refs = "the quick fox jumps over a dog", ["the fox jumps over the lazy dog", "a dog sleeps"]

    def best(overlap):
        return max(overlap(text.split(), ref.split()) for ref in refs)

    def f(hits, a, b):
        return 2 * hits / (a + b)

    def grams(n):
        def overlap(a, b):
            x = Counter(tuple(a[i : i + n]) for i in range(len(a) - n + 1))
            y = Counter(tuple(b[i : i + n]) for i in range(len(b) - n + 1))
            return f(sum((x & y).values()), len(a) - n + 1, len(b) - n + 1)

        return overlap

    other = said("q", "same words here", "same words here")
    answers = [*(said("p", text, ref) for ref in refs), other]
    assert rouge(answers, "rouge1") == pytest.approx((best(grams(1)) + 1) / 2)
    assert rouge(answers, "rouge2") == pytest.approx((best(grams(2)) + 1) / 2)
    lcs = best(lambda a, b: f(longest_common(a, b), len(a), len(b)))
    assert rouge(answers, "rougeL") == pytest.approx((lcs + 1) / 2)


def test_text_metrics_computes_only_what_is_generated():
    answers = [said("a", "x", "x")]
    assert text_metrics(answers, select_metrics(["loss", "em"], "instruct")) == {"exact_match": 1.0}
    assert text_metrics([], select_metrics(["em", "bleu"], "instruct")) == {}


@pytest.mark.parametrize(("metric", "package"), [("bleu", "sacrebleu"), ("rouge1", "rouge-score")])
def test_a_missing_package_names_the_extra(metric, package, monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] in ("sacrebleu", "rouge_score")]:
        monkeypatch.delitem(sys.modules, module)

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("sacrebleu", "rouge_score"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Blocker(), *sys.meta_path])
    with pytest.raises(SetupError, match=f"needs the package {package}") as caught:
        text_metrics([said("a", "x", "x")], select_metrics([metric], "instruct"))
    assert "pip install petrun[metrics]" in caught.value.hint


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
