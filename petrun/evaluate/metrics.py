"""Metrics: what they are called, which tasks they suit, which way is better, and their formulas on numpy
arrays and strings.

R rows, C classes. Every figure is a float: `accuracy`, `token_accuracy`, `exact_match` and ROUGE are
fractions of 1, BLEU is on sacrebleu's scale of 0 to 100.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from petrun.errors import ConfigError, SetupError, did_you_mean
from petrun.evaluate.language import ROUGE_TOKENS, RougeTokenizer, bleu_tokenizer
from petrun.tensors import Array

DECODER_TASKS = ("lm", "instruct")
REGRESSION = "regression"
"""What classify is called where labels are numbers to predict: it has metrics of its own."""


@dataclass(frozen=True)
class Metric:
    """One metric by name."""

    name: str
    tasks: tuple[str, ...]
    higher_is_better: bool
    meaning: str
    generated: bool = False
    """Computed on generated text, so it costs a generation over the whole set; never a default."""
    aliases: tuple[str, ...] = ()
    package: str = ""
    """Optional package that computes it."""


def _table(*metrics: Metric) -> dict[str, Metric]:
    return {m.name: m for m in metrics}


_ALL = ("classify", REGRESSION, *DECODER_TASKS)
_TEXT = ("instruct",)
_ROUGE = "rouge-score"

METRICS: dict[str, Metric] = _table(
    Metric("accuracy", ("classify",), True, "share of rows whose class is right", aliases=("acc",)),
    Metric("f1_macro", ("classify",), True, "mean F1 over classes", aliases=("f1", "macro_f1", "f1-macro")),
    Metric("matthews", ("classify",), True, "Matthews correlation", aliases=("mcc", "matthews_correlation")),
    Metric(
        "loss",
        _ALL,
        False,
        "mean cross entropy over rows (classify) or supervised tokens; mean squared error (regression)",
    ),
    Metric("mse", (REGRESSION,), False, "mean squared error, which is the loss", aliases=("mean_squared_error",)),
    Metric("pearson", (REGRESSION,), True, "Pearson correlation", aliases=("pearsonr",)),
    Metric("spearman", (REGRESSION,), True, "Spearman correlation of ranks", aliases=("spearmanr",)),
    Metric("perplexity", DECODER_TASKS, False, "exp(loss)", aliases=("ppl",)),
    Metric("token_accuracy", DECODER_TASKS, True, "share of tokens guessed", aliases=("token_acc",)),
    Metric("exact_match", _TEXT, True, "share of rows generated exactly", True, ("em",)),
    Metric("bleu", _TEXT, True, "corpus BLEU, 0 to 100", True, ("sacrebleu",), "sacrebleu"),
    Metric("rouge1", _TEXT, True, "mean ROUGE-1 F", True, ("rouge-1",), _ROUGE),
    Metric("rouge2", _TEXT, True, "mean ROUGE-2 F", True, ("rouge-2",), _ROUGE),
    Metric("rougeL", _TEXT, True, "mean ROUGE-L F", True, ("rouge-l",), _ROUGE),
)

GROUPS: Mapping[str, tuple[str, ...]] = {"rouge": ("rouge1", "rouge2", "rougeL")}
"""Names that stand for several metrics; `all` stands for every one that the task has."""

BEST: Mapping[str, str] = {"classify": "accuracy", REGRESSION: "loss", "lm": "loss", "instruct": "loss"}
"""Task -> the metric that picks the best delta where the user names none."""


def known_names() -> dict[str, tuple[str, ...]]:
    """Every accepted spelling, in lower case -> the metrics it means."""
    names: dict[str, tuple[str, ...]] = {name.lower(): (name,) for name in METRICS}
    for metric in METRICS.values():
        names.update({alias: (metric.name,) for alias in metric.aliases})
    names.update(GROUPS)
    return names


def select_metrics(names: Iterable[str], task: str) -> tuple[Metric, ...]:
    """Metrics by name, alias (f1, mcc, ppl) or group (rouge, all), each once and in the order given; without
    names all that the task has and that need no generation.

    Raises: ConfigError, once, with every name that is unknown or does not suit the task.
    """
    wanted = [name.strip() for name in names if name.strip()]
    if not wanted:
        return tuple(m for m in METRICS.values() if task in m.tasks and not m.generated)
    spelled = known_names()
    suited = [m.name for m in METRICS.values() if task in m.tasks]
    vocabulary = ("all", *METRICS, *spelled)
    chosen: dict[str, Metric] = {}
    problems = []
    for name in wanted:
        key = name.lower().replace(" ", "_")
        canonical = tuple(suited) if key == "all" else spelled.get(key, ())
        if not canonical:
            problems.append(f"metric {name} is unknown. {did_you_mean(name, vocabulary)}")
        for metric in (METRICS[c] for c in canonical):
            if task in metric.tasks:
                chosen[metric.name] = metric
            else:
                problems.append(f"metric {metric.name} is for {' and '.join(metric.tasks)}, not for {task}")
    if problems:
        raise ConfigError("\n".join(problems), hint=f"Metrics of {task}: {', '.join(suited)}.")
    return tuple(chosen.values())


def best_metric(name: str | None, task: str) -> Metric:
    """The metric that decides which delta is the best. Raises ConfigError for an unknown or unsuited one, a
    group, or one that needs generation."""
    chosen = select_metrics((name or BEST[task],), task)
    if len(chosen) > 1:
        raise ConfigError(
            f"train.best_metric = {name} means several metrics",
            hint=f"Name one: {', '.join(m.name for m in chosen)}.",
        )
    if chosen[0].generated:
        free = ", ".join(m.name for m in select_metrics((), task))
        raise ConfigError(
            f"train.best_metric = {name} needs generation, which evaluation during training leaves out",
            hint=f"Name one of {free}; `petrun eval --metrics {chosen[0].name}` computes it afterwards.",
        )
    return chosen[0]


def is_better(metric: Metric, new: float, old: float) -> bool:
    """Strictly better; NaN is never better, and anything is better than NaN."""
    if math.isnan(new):
        return False
    return math.isnan(old) or (new > old if metric.higher_is_better else new < old)


def require_packages(metrics: Iterable[Metric]) -> None:
    """Import what the metrics need, before any time is spent on generation. Raises SetupError."""
    for metric in metrics:
        if metric.package:
            _PACKAGES[metric.package]()


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError as error:
        raise _missing("sacrebleu", error) from error
    return sacrebleu


def _rouge_scorer() -> Any:
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise _missing("rouge-score", error) from error
    return rouge_scorer


_PACKAGES: Mapping[str, Callable[[], Any]] = {"sacrebleu": _sacrebleu, "rouge-score": _rouge_scorer}


def _missing(package: str, error: ImportError) -> SetupError:
    return SetupError(
        f"this metric needs the package {package}, which cannot be imported: {error}",
        hint="pip install petrun[metrics]",
    )


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
    # Scaled to 1 before they are squared: squares of very small or large numbers leave float64's range.
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


# Generated text.


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was generated for one row, and what should have been."""

    prompt: Hashable
    """Any key that is equal for equal inputs: the prompt's text, or its token ids."""
    text: str
    reference: str
    other_references: tuple[str, ...] = ()
    """More texts that are as right."""


def _references(answers: Sequence[Answer]) -> dict[Hashable, list[str]]:
    """Prompt -> its distinct references, in the data's order."""
    found: dict[Hashable, dict[str, None]] = {}
    for answer in answers:
        found.setdefault(answer.prompt, {}).update(dict.fromkeys((answer.reference, *answer.other_references)))
    return {prompt: list(references) for prompt, references in found.items()}


def _distinct(answers: Sequence[Answer]) -> list[tuple[str, list[str]]]:
    """(text, references) of each distinct prompt: the text of its first row against the references of all its
    rows.

    This is the E2E challenge's protocol (Dušek et al., Comput. Speech Lang. 59, 2020): its files repeat an
    input once for each human reference, and the system answers an input once. Where all prompts differ, every
    row is an item of its own.
    """
    references = _references(answers)
    first: dict[Hashable, str] = {}
    for answer in answers:
        first.setdefault(answer.prompt, answer.text)
    return [(first[prompt].strip(), [r.strip() for r in references[prompt]]) for prompt in references]


def exact_match(answers: Sequence[Answer]) -> float:
    """Share of rows whose text equals a reference of the row's prompt, white space stripped at both ends."""
    references = {p: {r.strip() for r in rs} for p, rs in _references(answers).items()}
    return float(np.mean([a.text.strip() in references[a.prompt] for a in answers]))


def bleu(answers: Sequence[Answer], tokenizer: str | None = None) -> float:
    """Corpus BLEU over the distinct prompts, as sacrebleu has it: case kept, exp smoothing.

    `tokenizer`: sacrebleu's name; None: the one for the references' script. Source: Papineni et al., ACL 2002; Post, WMT 2018.
    Raises SetupError.
    """
    return _bleu(answers, tokenizer)[0]


def _bleu(answers: Sequence[Answer], tokenizer: str | None = None) -> tuple[float, str]:
    """(score, sacrebleu's signature of how it was computed)."""
    items = _distinct(answers)
    most = max(len(references) for _, references in items)
    streams = [[refs[i] if i < len(refs) else None for _, refs in items] for i in range(most)]
    package = _sacrebleu()
    metric = package.BLEU(tokenize=tokenizer or bleu_tokenizer(a.reference for a in answers))
    score = float(metric.corpus_score([text for text, _ in items], streams).score)
    return score, str(metric.get_signature())


def rouge(answers: Sequence[Answer], kind: str) -> float:
    """Mean over the distinct prompts of the F measure against the best of the prompt's references; kind:
    rouge1, rouge2 or rougeL.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, without stemming; on ASCII text the figures of the
    package rouge_score, on other text those of RougeTokenizer. Raises SetupError.
    """
    scorer = _rouge_scorer().RougeScorer([kind], tokenizer=RougeTokenizer())
    best = [scorer.score_multi(refs, text)[kind].fmeasure for text, refs in _distinct(answers)]
    return float(np.mean(best))


_GENERATED: Mapping[str, Callable[[Sequence[Answer]], float]] = {
    "exact_match": exact_match,
    "bleu": bleu,
    "rouge1": lambda answers: rouge(answers, "rouge1"),
    "rouge2": lambda answers: rouge(answers, "rouge2"),
    "rougeL": lambda answers: rouge(answers, "rougeL"),
}


def text_metrics(answers: Sequence[Answer], metrics: Iterable[Metric]) -> dict[str, float]:
    """Those of `metrics` that are computed on generated text. No answers: an empty dict. Raises
    SetupError."""
    chosen = [m for m in metrics if m.generated]
    require_packages(chosen)
    return {m.name: _GENERATED[m.name](answers) for m in chosen} if answers else {}


def signatures(answers: Sequence[Answer], metrics: Iterable[Metric]) -> dict[str, str]:
    """How BLEU and ROUGE of these answers are computed, by metric: tokeniser, references, version. Raises SetupError."""
    found: dict[str, str] = {}
    for metric in metrics if answers else ():
        if metric.package == "sacrebleu":
            found[metric.name] = _bleu(answers)[1]
        elif metric.package == _ROUGE:
            found[metric.name] = f"tok:{ROUGE_TOKENS}|stem:no|version:{version(_ROUGE)}"
    return found
