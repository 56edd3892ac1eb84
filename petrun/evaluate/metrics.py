"""Define the metrics, one record each in METRICS, and choose them by name.

Every figure is a float. Accuracies, exact match and ROUGE are fractions of 1, BLEU is on sacrebleu's scale of 0 to 100.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from petrun.data.tasks import DECODER_TASKS, PREFERENCE, TOKENS, UNPAIRED
from petrun.errors import ConfigError, did_you_mean
from petrun.evaluate.row_formulas import (
    accuracy,
    desirable_mean,
    difference_of_kinds,
    entity_f1,
    f1_macro,
    hit_share,
    larger_share,
    matthews,
    mean_difference,
    mean_loss,
    mean_value,
    pearson,
    perplexity_of,
    positive_mean,
    share_of,
    spearman,
    undesirable_mean,
)
from petrun.evaluate.text_formulas import (
    ReferencedAnswer,
    bleu,
    bleu_of_corpus,
    bleu_signature,
    chrf,
    chrf_signature,
    exact_match,
    import_jieba,
    import_rouge_scorer,
    import_sacrebleu,
    rouge,
    rouge_signature,
    ter,
    ter_of_corpus,
    ter_signature,
)
from petrun.tensors import Array

REGRESSION = "regression"
"""Name of the task classify where labels are numbers to predict, which has metrics of its own."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """All that the commands need of one metric: its names, the tasks that it suits, and its formula on rows or on texts."""

    name: str
    tasks: tuple[str, ...]
    """Tasks that have it; REGRESSION is one of them here."""
    meaning: str
    higher_is_better: bool = True
    aliases: tuple[str, ...] = ()
    group: str = ""
    """A name that stands for several metrics."""
    by_name_alone: bool = False
    """`all` leaves it out: it needs more than the other metrics of its tasks do."""
    default_of: tuple[str, ...] = ()
    """Tasks whose best delta it picks where the user names no metric."""
    of_rows: Callable[..., float] | None = None
    """Formula on the arrays `inputs`, of the rows with something to score."""
    inputs: tuple[str, ...] = ()
    """Names of arrays of figures.Scores."""
    of_texts: Callable[[Sequence[ReferencedAnswer]], float] | None = None
    """Formula on generated text, so it costs a generation over the whole set; never a default. Raises SetupError."""
    require: Callable[[], object] | None = None
    """Imports the optional package that computes it. Raises SetupError."""
    signature: Callable[[Sequence[ReferencedAnswer]], str] | None = None
    """Returns how it was computed from these answers: tokeniser, references, version."""
    corpus: Callable[[Sequence[ReferencedAnswer]], Callable[[Sequence[ReferencedAnswer]], float]] | None = None
    """For a figure of a whole corpus, which is not a mean: all answers -> the formula on a part of them."""
    mean_of_rows: bool = False
    """The figure of texts is a mean over rows; else over distinct prompts."""

    @property
    def generated(self) -> bool:
        """Whether it is computed on generated text."""
        return self.of_texts is not None


def _table(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


def _rouge(kind: str, meaning: str, alias: str, *, words: bool = False) -> Metric:
    return Metric(
        name=f"{kind}_jieba" if words else kind,
        tasks=("instruct",),
        meaning=meaning,
        aliases=(alias,),
        group="rouge_jieba" if words else "rouge",
        by_name_alone=words,
        of_texts=lambda answers: rouge(answers, kind, words=words),
        require=import_jieba if words else import_rouge_scorer,
        signature=lambda answers: rouge_signature(answers, words=words),
    )


def _gain(name: str, meaning: str, of_rows: Callable[..., float], **more: Any) -> Metric:
    given = {"inputs": ("answer_gains", "desirable"), **more}
    return Metric(name=name, tasks=(UNPAIRED,), meaning=meaning, of_rows=of_rows, **given)


_ALL = ("classify", REGRESSION, TOKENS, UNPAIRED, *DECODER_TASKS)

METRICS: dict[str, Metric] = _table(
    Metric(
        name="accuracy",
        tasks=("classify",),
        meaning="share of rows whose class is right",
        aliases=("acc",),
        default_of=("classify",),
        of_rows=accuracy,
        inputs=("labels", "predictions"),
    ),
    Metric(
        name="f1_macro",
        tasks=("classify",),
        meaning="mean F1 over classes",
        aliases=("f1", "macro_f1", "f1-macro"),
        of_rows=f1_macro,
        inputs=("labels", "predictions"),
    ),
    Metric(
        name="matthews",
        tasks=("classify",),
        meaning="Matthews correlation",
        aliases=("mcc", "matthews_correlation"),
        of_rows=matthews,
        inputs=("labels", "predictions"),
    ),
    Metric(
        name="entity_f1",
        tasks=(TOKENS,),
        meaning="F1 of entities, whose type and both ends must be right",
        default_of=(TOKENS,),
        of_rows=entity_f1,
        inputs=("right_entities", "predicted_entities", "labelled_entities"),
    ),
    Metric(
        name="entity_precision",
        tasks=(TOKENS,),
        meaning="share of the predicted entities that are right",
        of_rows=share_of,
        inputs=("right_entities", "predicted_entities"),
    ),
    Metric(
        name="entity_recall",
        tasks=(TOKENS,),
        meaning="share of the labelled entities that are predicted",
        of_rows=share_of,
        inputs=("right_entities", "labelled_entities"),
    ),
    Metric(
        name="loss",
        tasks=_ALL,
        meaning="mean cross entropy over rows (classify), words (tokens) or supervised tokens (of chosen answers); mean squared error "
        "(regression)",
        higher_is_better=False,
        default_of=(REGRESSION, "lm", "instruct"),
        of_rows=mean_loss,
        inputs=("losses", "counts"),
    ),
    Metric(
        name="mse",
        tasks=(REGRESSION,),
        meaning="mean squared error, which is the loss",
        higher_is_better=False,
        aliases=("mean_squared_error",),
        of_rows=mean_loss,
        inputs=("losses", "counts"),
    ),
    Metric(
        name="pearson",
        tasks=(REGRESSION,),
        meaning="Pearson correlation",
        aliases=("pearsonr",),
        of_rows=pearson,
        inputs=("labels", "predictions"),
    ),
    Metric(
        name="spearman",
        tasks=(REGRESSION,),
        meaning="Spearman correlation of ranks",
        aliases=("spearmanr",),
        of_rows=spearman,
        inputs=("labels", "predictions"),
    ),
    Metric(
        name="perplexity",
        tasks=(UNPAIRED, *DECODER_TASKS),
        meaning="exp(loss)",
        higher_is_better=False,
        aliases=("ppl",),
        of_rows=perplexity_of,
        inputs=("losses", "counts"),
    ),
    Metric(
        name="token_accuracy",
        tasks=(TOKENS, UNPAIRED, *DECODER_TASKS),
        meaning="share of tokens guessed, or of words whose tag is right",
        aliases=("token_acc",),
        of_rows=hit_share,
        inputs=("hits", "counts"),
    ),
    Metric(
        name="reward_accuracy",
        tasks=(PREFERENCE,),
        meaning="share of rows whose chosen answer gained more log-probability over the base than the rejected one",
        default_of=(PREFERENCE,),
        of_rows=larger_share,
        inputs=("chosen_gains", "rejected_gains"),
    ),
    Metric(
        name="reward_margin",
        tasks=(PREFERENCE,),
        meaning="by how much more it gained, in nats (the reward of a loss is beta times that)",
        of_rows=mean_difference,
        inputs=("chosen_gains", "rejected_gains"),
    ),
    Metric(
        name="chosen_gain",
        tasks=(PREFERENCE,),
        meaning="log-probability that the chosen answers gained over the base, in nats",
        of_rows=mean_value,
        inputs=("chosen_gains",),
    ),
    Metric(
        name="preference_accuracy",
        tasks=(PREFERENCE,),
        meaning="share of rows whose chosen answer is likelier, by the mean log-probability of its tokens",
        of_rows=larger_share,
        inputs=("chosen_means", "rejected_means"),
    ),
    _gain(
        "desirable_margin", "desirable_gain - undesirable_gain, in nats", difference_of_kinds, default_of=(UNPAIRED,)
    ),
    _gain("desirable_gain", "log-probability that desirable answers gained over the base, in nats", desirable_mean),
    _gain("undesirable_gain", "the same of undesirable answers", undesirable_mean, higher_is_better=False),
    _gain("kl", "z0 of kto over all rows, nats", positive_mean, inputs=("mismatched_gains",), higher_is_better=False),
    Metric(
        name="exact_match",
        tasks=("instruct",),
        meaning="share of rows generated exactly",
        aliases=("em",),
        of_texts=exact_match,
        mean_of_rows=True,
    ),
    Metric(
        name="bleu",
        tasks=("instruct",),
        meaning="corpus BLEU, 0 to 100",
        aliases=("sacrebleu",),
        of_texts=bleu,
        require=import_sacrebleu,
        signature=bleu_signature,
        corpus=bleu_of_corpus,
    ),
    Metric(
        name="chrf",
        tasks=("instruct",),
        meaning="corpus chrF, 0 to 100",
        of_texts=chrf,
        require=import_sacrebleu,
        signature=chrf_signature,
        corpus=lambda answers: chrf,
    ),
    Metric(
        name="ter",
        tasks=("instruct",),
        meaning="corpus TER, edits per 100 words",
        higher_is_better=False,
        of_texts=ter,
        require=import_sacrebleu,
        signature=ter_signature,
        corpus=ter_of_corpus,
    ),
    _rouge("rouge1", "mean ROUGE-1 F", "rouge-1"),
    _rouge("rouge2", "mean ROUGE-2 F", "rouge-2"),
    _rouge("rougeL", "mean ROUGE-L F", "rouge-l"),
    _rouge("rouge1", "mean ROUGE-1 F, of Chinese on words", "rouge-1-jieba", words=True),
    _rouge("rouge2", "mean ROUGE-2 F, of Chinese on words", "rouge-2-jieba", words=True),
    _rouge("rougeL", "mean ROUGE-L F, of Chinese on words", "rouge-l-jieba", words=True),
)
"""Every metric by name."""


def known_names() -> dict[str, tuple[str, ...]]:
    """Return every accepted spelling, in lower case -> the metrics it means."""
    names: dict[str, tuple[str, ...]] = {name.lower(): (name,) for name in METRICS}
    for metric in METRICS.values():
        names.update({alias: (metric.name,) for alias in metric.aliases})
    for metric in METRICS.values():
        if metric.group:
            names[metric.group] = (*names.get(metric.group, ()), metric.name)
    return names


def select_metrics(names: Iterable[str], task: str) -> tuple[Metric, ...]:
    """Return metrics by name, alias (f1, mcc, ppl) or group (rouge, all), each once and in the order given; without
    names all metrics of the task that need no generation.

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
        canonical = tuple(n for n in suited if not METRICS[n].by_name_alone) if key == "all" else spelled.get(key, ())
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
    """Return the metric that decides which delta is the best. Raises ConfigError for an unknown or unsuited one, a
    group, or one that needs generation."""
    chosen = select_metrics((name or next(m.name for m in METRICS.values() if task in m.default_of),), task)
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
    """Return whether `new` is strictly better; NaN is never better, and anything is better than NaN."""
    if math.isnan(new):
        return False
    return math.isnan(old) or (new > old if metric.higher_is_better else new < old)


def require_packages(metrics: Iterable[Metric]) -> None:
    """Import what the metrics need, before any time is spent on generation. Raises SetupError."""
    for metric in metrics:
        if metric.require is not None:
            metric.require()


def row_metrics(rows: Mapping[str, Array | None], task: str) -> dict[str, float]:
    """Compute all metrics of a task that need no generation. `rows`: the arrays of figures.Scores by name, of rows with something to
    score.
    """
    return {
        metric.name: metric.of_rows(*(rows[name] for name in metric.inputs))
        for metric in METRICS.values()
        if task in metric.tasks and metric.of_rows is not None
    }


def text_metrics(answers: Sequence[ReferencedAnswer], metrics: Iterable[Metric]) -> dict[str, float]:
    """Compute those of `metrics` that use generated text. No answers: an empty dict. Raises SetupError."""
    chosen = [m for m in metrics if m.generated]
    require_packages(chosen)
    return {m.name: m.of_texts(answers) for m in chosen if m.of_texts is not None} if answers else {}


def signatures(answers: Sequence[ReferencedAnswer], metrics: Iterable[Metric]) -> dict[str, str]:
    """Say how the metrics of these answers were computed, by metric; those without a signature are left out. Raises SetupError."""
    return {m.name: m.signature(answers) for m in metrics if m.signature is not None} if answers else {}
