"""The table of metrics: names, directions, choice by name, and metrics of rows and of texts."""

import math
import sys

import pytest

from petrun.errors import ConfigError, SetupError
from petrun.evaluate.metrics import METRICS, best_metric, is_better, select_metrics, text_metrics
from petrun.evaluate.text_formulas import ReferencedAnswer


def names(metrics):
    return [m.name for m in metrics]


def said(prompt, text, reference):
    return ReferencedAnswer(prompt=prompt, text=text, reference=reference)


def test_all_metrics_are_there():
    assert set(METRICS) == {
        "entity_f1", "entity_precision", "entity_recall",
        "accuracy", "f1_macro", "matthews", "loss", "mse", "pearson", "spearman", "perplexity", "token_accuracy",
        "reward_accuracy", "reward_margin", "chosen_gain", "preference_accuracy",
        "desirable_margin", "desirable_gain", "undesirable_gain", "kl",
        "exact_match", "bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL", "rouge1_jieba", "rouge2_jieba", "rougeL_jieba",
    }  # fmt: skip
    assert all(name == metric.name for name, metric in METRICS.items())
    lower = {"loss", "mse", "perplexity", "ter", "undesirable_gain", "kl"}
    assert {m.name for m in METRICS.values() if not m.higher_is_better} == lower


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
            [
                "loss",
                "perplexity",
                "token_accuracy",
                "exact_match",
                "bleu",
                "chrf",
                "ter",
                "rouge1",
                "rouge2",
                "rougeL",
            ],
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
        "metric acuracy is unknown. Did you mean accuracy, token_accuracy, reward_accuracy?",
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
