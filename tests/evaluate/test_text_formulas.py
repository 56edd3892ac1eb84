"""Formulas on texts against their definitions in plain Python."""

import itertools
import math
from collections import Counter

import pytest

from petrun.evaluate.metrics import select_metrics, text_metrics
from petrun.evaluate.text_formulas import ReferencedAnswer, bleu, exact_match, rouge


def said(prompt, text, reference):
    return ReferencedAnswer(prompt=prompt, text=text, reference=reference)


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
