"""Score several deltas on the same rows, in one pass over the data where they can share a graph.

Deltas that share a graph (see inference/multi_adapter.py) and read the data alike are scored together: every row is repeated for the
base and for each delta, and the rows of a batch use different deltas. Others are scored one after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from petrun import console
from petrun.console import progress
from petrun.data.chat.end_of_turn import EndOfTurn
from petrun.data.examples.example_set import ExampleSet
from petrun.data.tasks import PREFERENCE
from petrun.errors import ConfigError
from petrun.evaluate.bootstrap import Sample, forward_samples, text_samples
from petrun.evaluate.figures import Scores
from petrun.evaluate.metrics import Metric, signatures
from petrun.evaluate.score import Batch, Scorer
from petrun.evaluate.text_formulas import ReferencedAnswer
from petrun.inference.assembly import attach_delta, set_delta
from petrun.inference.evaluator import decode_answer, open_generator
from petrun.inference.multi_adapter import MultiAdapter, open_multi_adapter
from petrun.inference.preference import desirable_of, log_probs
from petrun.inference.settings import InferenceSettings, resolve_settings
from petrun.models.base import LoadedModel

BASE = "base"


@dataclass(frozen=True)
class ComparedDelta:
    """A delta to be compared, and the rows as it reads them."""

    settings: InferenceSettings
    rows: ExampleSet
    prompts: ExampleSet | None = None
    """The same rows as prompts; None where no metric needs generated text."""


@dataclass(frozen=True)
class DeltaScores:
    """The figures of a delta, or of the base."""

    figures: dict[str, float]
    samples: dict[str, Sample]
    """Metric -> its value of every row, from which the bootstrap draws."""
    signatures: dict[str, str]
    """How the figures of texts were computed."""


def open_deltas(
    flags: Mapping[str, tuple[str, object]], sets: Sequence[str], paths: Mapping[str, str], alpha: float | None
) -> dict[str, ComparedDelta]:
    """Resolve the settings of each delta and read its rows. Raises ConfigError where their tasks or their rows differ."""
    if BASE in paths:
        raise ConfigError(f"--delta {paths[BASE]}: {BASE!r} is what the base is called", hint="--delta NAME=PATH")
    found: dict[str, ComparedDelta] = {}
    for name, path in paths.items():
        settings = resolve_settings(flags, sets, delta=path, alpha=alpha)
        found[name] = ComparedDelta(settings, settings.rows())
    names = list(found)
    first = found[names[0]].rows
    for name in names[1:]:
        rows = found[name].rows
        for field in ("task", "labels", "num_labels"):
            mine, other = getattr(first, field), getattr(rows, field)
            if mine != other:
                raise ConfigError(
                    f"--delta {paths[names[0]]} and --delta {paths[name]} do not do the same: their {field} are {mine} and {other}",
                    hint="Score them apart.",
                )
        if not np.array_equal(first.per_row["row"], rows.per_row["row"]):
            raise ConfigError(f"--delta {paths[names[0]]} and --delta {paths[name]} use different rows of the data")
    return found


def add_prompts(deltas: Mapping[str, ComparedDelta]) -> dict[str, ComparedDelta]:
    """Read the rows once more as prompts, for metrics of generated text."""
    return {name: replace(delta, prompts=delta.settings.prompts(delta.rows)) for name, delta in deltas.items()}


def score_deltas(
    deltas: Mapping[str, ComparedDelta], metrics: tuple[Metric, ...]
) -> tuple[dict[str, DeltaScores], bool]:
    """Score the base and every delta. Returns the scores by name, the base's first, and whether one pass computed them all."""
    first = next(iter(deltas.values()))
    alike = all(_same_tokens(first.rows, d.rows) and _same_tokens(first.prompts, d.prompts) for d in deltas.values())
    reason = "" if alike else "their templates or settings make different tokens of the rows"
    if alike:
        loaded, _ = first.settings.load(first.rows)
        try:
            fitted = {name: delta.settings.fitted(loaded) for name, delta in deltas.items()}
            # The graph has an adapter index for every row of a batch.
            loaded, multi_adapter = open_multi_adapter(loaded, fitted, first.settings.batch_size)
        except ConfigError as error:
            reason = error.message
        else:
            return _in_one_pass(deltas, metrics, loaded, multi_adapter), True
    console.print(f"scored one after another: {reason}")
    return _one_after_another(deltas, metrics), False


def _same_tokens(first: ExampleSet | None, other: ExampleSet | None) -> bool:
    if first is None or other is None:
        return first is other
    tokens = np.array_equal(first.offsets, other.offsets)
    return tokens and all(np.array_equal(values, other.flat[name]) for name, values in first.flat.items())


def _in_one_pass(
    deltas: Mapping[str, ComparedDelta], metrics: tuple[Metric, ...], loaded: LoadedModel, multi_adapter: MultiAdapter
) -> dict[str, DeltaScores]:
    """Score all in one pass: row i of the data is row k * R + i for the k-th of base and deltas, R the number of rows."""
    first = next(iter(deltas.values()))
    names, count = (BASE, *deltas), len(first.rows)
    rows = first.rows.take(np.tile(np.arange(count), len(names)))
    rows = replace(rows, per_row={**rows.per_row, "row": np.arange(len(rows), dtype=np.int32)})

    def switched() -> Iterator[Batch]:
        for batch in first.settings.batches(rows, loaded):
            multi_adapter.select([int(row) // count for row in batch["rows"]])
            yield batch

    scorer = Scorer(loaded.net, loaded.inputs, rows.task, labels=rows.labels)
    outputs = scorer.outputs(switched(), progress("score"), len(rows))
    base = np.tile(log_probs(outputs)[:count], (len(names), 1)) if rows.task == PREFERENCE else None
    scores = scorer.figures(outputs, base, desirable_of(rows, outputs.rows))
    parts = [scores.part(scores.rows // count == k) for k in range(len(names))]
    answers: list[list[ReferencedAnswer]] = [[] for _ in names]
    if first.prompts is not None:
        # The base answers with the template of the first delta.
        prompts = [(first.prompts, each.settings.end_of_turn(first.prompts)) for each in (first, *deltas.values())]
        answers = _generate(prompts, first.settings, loaded, multi_adapter)
    return {name: _scores(parts[k], answers[k], metrics) for k, name in enumerate(names)}


def _one_after_another(deltas: Mapping[str, ComparedDelta], metrics: tuple[Metric, ...]) -> dict[str, DeltaScores]:
    """Score each delta with a net of its own, which is compiled again."""
    found: dict[str, DeltaScores] = {}
    first = next(iter(deltas.values()))
    for name, delta in {BASE: first, **deltas}.items():
        settings, rows = delta.settings, delta.rows
        loaded, fitted = settings.load(rows)
        base = None
        if name != BASE and rows.task == PREFERENCE:
            # Templates may differ from delta to delta, so the base is asked about the tokens of each.
            alone = Scorer(loaded.net, loaded.inputs, rows.task).outputs(settings.batches(rows, loaded))
            base = log_probs(alone)
        if name != BASE and fitted is not None:
            assembled = attach_delta(loaded, fitted, settings.config.train.seed)
            set_delta(assembled, fitted)
            loaded = assembled.loaded
        scorer = Scorer(loaded.net, loaded.inputs, rows.task, labels=rows.labels)
        outputs = scorer.outputs(settings.batches(rows, loaded), progress(f"score {name}"), len(rows))
        scores = scorer.figures(outputs, base, desirable_of(rows, outputs.rows))
        answers: list[ReferencedAnswer] = []
        if delta.prompts is not None:
            prompts = [(delta.prompts, settings.end_of_turn(delta.prompts))]
            answers = _generate(prompts, settings, loaded, None)[0]
        found[name] = _scores(scores, answers, metrics)
    return found


def _generate(
    sets: Sequence[tuple[ExampleSet, EndOfTurn]],
    settings: InferenceSettings,
    loaded: LoadedModel,
    multi_adapter: MultiAdapter | None,
) -> list[list[ReferencedAnswer]]:
    """Answer the k-th set's prompts greedily with adapter index k, each with its end of turn, all in one call."""
    tokenizer = settings.tokenizer
    select = None if multi_adapter is None else multi_adapter.select
    generator = open_generator(loaded, tokenizer, settings.batch_size, select)
    every = [(index, prompts[i], end) for index, (prompts, end) in enumerate(sets) for i in range(len(prompts))]
    found = generator(
        [example.input_ids for _, example, _ in every],
        settings.config.eval.max_new_tokens,
        rows=[example.row for _, example, _ in every],
        adapters=[index for index, _, _ in every],
        ends_of_turn=[end_of_turn for _, _, end_of_turn in every],
        progress=progress("generate"),
    )
    answers: list[list[ReferencedAnswer]] = [[] for _ in sets]
    for (index, example, end_of_turn), generation in zip(every, found, strict=True):
        answer = ReferencedAnswer(
            prompt=tuple(example.input_ids.tolist()),
            text=decode_answer(generation.tokens, tokenizer, end_of_turn),
            reference=example.require_reference(),
            other_references=example.other_references,
        )
        answers[index].append(answer)
    return answers


def _scores(scores: Scores, answers: list[ReferencedAnswer], metrics: tuple[Metric, ...]) -> DeltaScores:
    names = [m.name for m in metrics]
    forward = forward_samples(scores, names) or forward_samples(scores, ["loss"])
    samples = {**forward, **text_samples(answers, metrics)}
    figures = {name: sample.value(np.arange(sample.items)) for name, sample in samples.items()}
    return DeltaScores(figures, samples, signatures(answers, metrics))
