"""A new metric is one record in the table: `petrun eval`, best_metric, the comparison of two deltas and its names know it from there."""

import json

import numpy as np
import pytest

from petrun.evaluate.bootstrap import compare, forward_samples, text_samples
from petrun.evaluate.figures import class_scores
from petrun.evaluate.metrics import METRICS, Metric, best_metric, is_better, select_metrics
from petrun.evaluate.text_formulas import ReferencedAnswer

BRIER = Metric(
    name="brier",
    tasks=("classify",),
    meaning="mean squared distance of the probabilities from the right class",
    higher_is_better=False,
    aliases=("brier_score",),
    group="calibration",
    of_rows=lambda labels, probabilities: float(
        np.mean(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1))
    ),
    inputs=("labels", "probabilities"),
)
SHORTNESS = Metric(
    name="shortness",
    tasks=("instruct",),
    meaning="share of answers of at most three characters",
    of_texts=lambda answers: float(np.mean([len(answer.text) <= 3 for answer in answers])),
    signature=lambda answers: f"answers:{len(answers)}",
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(METRICS, "brier", BRIER)
    monkeypatch.setitem(METRICS, "shortness", SHORTNESS)


def test_its_names_and_its_direction():
    for name in ("brier", "Brier_Score", "calibration"):
        assert select_metrics([name], "classify") == (BRIER,)
    assert BRIER in select_metrics([], "classify") and SHORTNESS not in select_metrics([], "instruct")
    assert best_metric("brier", "classify") is BRIER and is_better(BRIER, 0.1, 0.2)


def test_two_deltas_are_compared_by_it():
    labels = np.arange(12) % 3
    logits = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    worse, better = (class_scores(np.arange(12), labels, logits + k * np.eye(3)[labels]) for k in (0, 3))
    (found,) = compare(forward_samples(worse, ["brier"]), forward_samples(better, ["brier"]))
    assert found.difference == pytest.approx(better.metrics["brier"] - worse.metrics["brier"]) and found.wins == 1.0
    texts = [ReferencedAnswer(prompt=i, text="a" * i, reference="") for i in range(6)]
    assert text_samples(texts, [SHORTNESS])["shortness"].value(np.arange(6)) == pytest.approx(4 / 6)


def test_petrun_eval_computes_it_of_rows(place, petrun):
    done = petrun("eval --base bert --delta bert-lora --data reviews.jsonl --metrics brier_score,acc --out found.json")
    assert done.code == 0, done.err
    found = json.loads((place / "found.json").read_text())
    assert "brier" in done.out and "accuracy" in done.out
    assert 0 < found["delta"]["brier"] < 2


def test_petrun_eval_computes_it_of_texts(place, petrun):
    done = petrun(
        "eval --base gpt2 --delta gpt2-lora --data orders.jsonl --metrics shortness --max-new-tokens 3 --out found.json"
    )
    assert done.code == 0, done.err
    found = json.loads((place / "found.json").read_text())
    assert found["delta"]["shortness"] in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert "answers:4" in done.out
