"""Evaluate a net before the first step and after the last, on the evaluation data, a few training rows and a few prompts.

The rows and their order are the same both times, so that figures can be compared one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import ge
from typing import Any

import numpy as np

from petrun.cluster.world import ALONE, World
from petrun.config.schema import RunConfig
from petrun.data.batches.buckets import BatchSpec
from petrun.data.batches.collate import collate
from petrun.data.examples.example_set import ExampleSet
from petrun.data.tasks import IMAGE, PROMPTED_TASKS
from petrun.errors import WeightsError
from petrun.evaluate.score import Scorer
from petrun.inference.evaluator import Evaluator, decode_answer, open_generator
from petrun.models.base import LoadedModel
from petrun.parallel.context import eager
from petrun.parallel.layout import Layout
from petrun.tensors import Array
from petrun.tensors.targets import is_scored
from petrun.training.setup.evaluation import evaluator_of
from petrun.training.setup.sources import Sources

_ROWS = 8
_NEW_TOKENS = 48


@dataclass(frozen=True)
class EvalSnapshot:
    """Holds the results of a net on these rows and prompts."""

    scores: dict[str, float] = field(default_factory=dict)
    """Metrics on the evaluation data; {} where there is none."""
    losses: list[float] | None = None
    """Loss of each training row, the mean over its supervised items; None where a logit was not finite."""
    texts: list[str] = field(default_factory=list)
    """Answers to the prompts."""


@dataclass(frozen=True)
class Prompt:
    """Holds a prompt, and the answer that the data gives."""

    ids: Array
    """(t,) int32."""
    text: str
    reference: str | None
    index: int | None = None
    """Its number among the prompts that a metric answers already; None where none does."""


class SampleEvaluator:
    """Chooses the rows and prompts once; `evaluate` may be called on a changing net.

    Nothing is compiled for the rows: they use the graph that scores the evaluation data, or run operator by operator where there is none.
    Prompts that no metric answers already cost two graphs (eval.samples).
    """

    def __init__(
        self,
        config: RunConfig,
        loaded: LoadedModel,
        sources: Sources,
        layout: Layout | None = None,
        world: World = ALONE,
    ) -> None:
        """`layout`: of ranks that hold shards, which evaluate on the evaluation data alone, as their graphs take no other shapes.
        `world`: of ranks that share the evaluation data."""
        self.loaded = loaded
        self.sources = sources
        self.world = world
        self.evaluator: Evaluator | None = evaluator_of(config, loaded, sources, layout, world)
        self.new_tokens = min(config.eval.max_new_tokens, _NEW_TOKENS)
        self.widths = self._widths()
        # What a U-Net predicts has no score that the other tasks know.
        takes_samples = layout is None and sources.train.task != IMAGE
        count = min(_ROWS, config.train.batch_size) if takes_samples else 0
        self.rows = _supervised(sources.train, count, self.widths[-1] if self.widths else None)
        self.prompts = (
            _prompts(sources, sample_count(config)) if takes_samples and hasattr(loaded.net, "prefill") else ()
        )
        self._generator: Any = None

    def evaluate(self, label: str) -> EvalSnapshot:
        """Score and answer. Raises WeightsError where logits on the evaluation data are not finite."""
        scores = self.evaluator.score(label) if self.evaluator is not None else {}
        with self.world.fail_together():
            return EvalSnapshot(scores, self._losses(), self._texts())

    def _widths(self) -> tuple[tuple[int, ...], ...]:
        """Return the row lengths in tokens that the evaluator's graph is compiled for, as plan_batches has them, the shortest first."""
        if self.evaluator is None or self.sources.train.is_arrays:
            return ()
        return tuple(sorted({tuple(lengths) for _, *lengths in self.evaluator.batching.epoch(0).shapes}))

    def _losses(self) -> list[float] | None:
        if not len(self.rows):
            return None
        longest = np.atleast_1d(self.rows.batch_lengths.max(0)).tolist()
        width = next((width for width in self.widths if all(map(ge, width, longest))), longest)
        units = tuple((i,) for i in range(len(self.rows)))
        spec = BatchSpec(units, 0 if self.rows.is_arrays else width[0], target_length=sum(width[1:]))
        batch = collate(self.rows, spec, self.loaded.inputs, self.loaded.pad_token_id)
        rows = [{**batch.arrays, "rows": np.arange(len(self.rows))}]
        try:
            if self.evaluator is not None:
                scores = self.evaluator.scorer(rows)
            else:
                with eager():
                    scores = Scorer(self.loaded.net, self.loaded.inputs, self.sources.train.task)(rows)
        except WeightsError:
            # Training reports such a row, or skips it with --on-nan skip.
            return None
        return [float(value) for value in scores.losses / np.maximum(scores.counts, 1)]

    def _texts(self) -> list[str]:
        if not self.prompts:
            return []
        answered = self.evaluator.texts if self.evaluator is not None else None
        if answered is not None and self.prompts[0].index is not None:
            return [answered[p.index] for p in self.prompts if p.index is not None]
        if self._generator is None:
            self._generator = open_generator(self.loaded, self.sources.tokenizer, len(self.prompts))
        try:
            ends_of_turn = [self.sources.end_of_turn] * len(self.prompts)
            found = self._generator([p.ids for p in self.prompts], self.new_tokens, ends_of_turn=ends_of_turn)
        except WeightsError:
            return []
        return [decode_answer(each.tokens, self.sources.tokenizer, self.sources.end_of_turn) for each in found]


def sample_count(config: RunConfig) -> int:
    """Return how many prompts are answered."""
    return config.eval.samples


def _supervised(rows: ExampleSet, count: int, longest: tuple[int, ...] | None) -> ExampleSet:
    """Choose `count` rows, spread over the set, with supervised tokens and at most `longest` tokens."""
    parts = [_has_target(block) for block in rows.blocks()]
    fit = np.concatenate(parts) if parts else np.zeros(0, bool)
    if longest is not None:
        lengths = rows.batch_lengths
        fit = fit & (lengths <= longest).reshape(len(lengths), -1).all(1)
    places = np.flatnonzero(fit)
    if not len(places) or not count:
        return rows.take(np.zeros(0, np.int64))
    return rows.take(places[np.unique(np.linspace(0, len(places) - 1, count).round().astype(np.int64))])


def _has_target(rows: ExampleSet) -> Array:
    """Return whether each row has anything supervised: (n,) bool."""
    if "labels" not in rows.flat:
        return is_scored(rows.per_row["label"])
    scored = is_scored(rows.flat["labels"])
    # The first token of a row is never a target.
    scored[rows.offsets[:-1][rows.lengths > 0]] = False
    before = np.concatenate([[0], np.cumsum(scored)])
    found: Array = before[rows.offsets[1:]] > before[rows.offsets[:-1]]
    return found


def _prompts(sources: Sources, count: int) -> tuple[Prompt, ...]:
    """Choose the first distinct prompts of the evaluation data, or of the training data where there is none."""
    if sources.train.task not in PROMPTED_TASKS or not count:
        return ()
    are_prompts = sources.prompts is not None
    rows = sources.prompts or sources.evaluation or sources.train
    found: dict[bytes, Prompt] = {}
    for index in range(len(rows)):
        row = rows[index]
        ids = row.input_ids[: row.prompt_length]
        if len(ids) and (are_prompts or len(ids) < len(row.input_ids)):
            place = index if are_prompts else None
            found.setdefault(ids.tobytes(), Prompt(ids, decode_answer(ids, sources.tokenizer), row.reference, place))
        if len(found) == count:
            break
    return tuple(found.values())
