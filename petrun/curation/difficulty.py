"""How much a question helps to predict its answer: instruction-following difficulty (IFD), from the losses of the answer with the question
and alone.

    s(A|Q) = mean loss of the answer's tokens behind the question
    s(A)   = mean loss of the same tokens alone
    ifd    = s(A|Q) / s(A)                a ratio of mean losses
    ppl    = exp(s(A|Q) - s(A))           the ratio of the perplexities

High is hard: the question hardly helps. Above 1 it makes the answer less likely: question and answer do not belong together. The two do not
sort rows in the same order.

Sources: ifd, Li et al., "From Quantity to Quality", NAACL 2024 (arXiv:2308.12032), section 2.2; ppl, Li et al., "Superfiltering", ACL 2024
(arXiv:2402.00530). Here both losses are of the same tokens in one tokenisation, the end of the turn left out; public code tokenises the
answer alone once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from petrun.data.examples.example_set import IGNORED, ExampleSet, Stats
from petrun.tensors import Array

TOO_LONG, NOTHING = "too long", "no token to score"


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """A way to combine the two losses."""

    name: str
    formula: str
    value: Callable[[float, float], float]
    """(s(A|Q), s(A)) -> the score. Both are above 0."""


DIFFICULTIES = {
    each.name: each
    for each in (
        Difficulty(
            name="ifd", formula="s(A|Q) / s(A)", value=lambda given, alone: given / alone if alone else math.inf
        ),
        Difficulty(
            name="ppl", formula="exp(s(A|Q) - s(A))", value=lambda given, alone: math.exp(min(given - alone, 700.0))
        ),
    )
}
HARDEST = 1.0
"""The highest score of a row whose question and answer belong together."""


@dataclass(frozen=True, kw_only=True)
class AnswerPairs:
    """Every row's learned tokens twice: behind the question, and alone."""

    examples: ExampleSet
    """2n rows: row 2i has the question, row 2i + 1 has not. The same tokens are scored in both."""
    rows: Array
    """(n,) int64: index of each pair's row in the set that it was made of."""
    left_out: dict[int, str]
    """Index of a row that has no pair -> why."""


def answer_pairs(rows: ExampleSet, limit: int, context: Sequence[int], specials: frozenset[int]) -> AnswerPairs:
    """Make the pairs.

    Inputs: `rows`, of instruct, longer rows cut behind `limit` + 1 tokens; `context`, ids before an answer that stands alone: without any
    its first token is predicted from nothing, and is scored in neither; `specials`, ids that are not scored, such as the end of turn.
    """
    ids: list[Array] = []
    labels: list[Array] = []
    left_out: dict[int, str] = {}
    kept: list[int] = []
    before = np.asarray(context, np.int32)
    unscored = np.array(sorted(specials), np.int32)
    for i in range(len(rows)):
        row = rows[i]
        assert row.labels is not None, "rows of instruct have labels"
        if len(row.input_ids) > limit:
            left_out[i] = TOO_LONG
            continue
        # The first token of a row is predicted from nothing.
        places = np.flatnonzero(
            (row.labels != IGNORED) & ~np.isin(row.input_ids, unscored) & (np.arange(len(row.labels)) > 0)
        )
        answer = row.input_ids[places]
        scored = places if len(before) else places[1:]
        if not len(scored) or len(before) + len(answer) > limit:
            left_out[i] = TOO_LONG if len(scored) else NOTHING
            continue
        given = np.full(len(row.input_ids), IGNORED, np.int32)
        given[scored] = row.input_ids[scored]
        alone = np.concatenate([before, answer]).astype(np.int32)
        targets = alone.copy()
        targets[: max(1, len(before))] = IGNORED
        ids += [row.input_ids, alone]
        labels += [given, targets]
        kept.append(i)
    return AnswerPairs(examples=_example_set(rows, ids, labels), rows=np.array(kept, np.int64), left_out=left_out)


def _example_set(like: ExampleSet, ids: list[Array], labels: list[Array]) -> ExampleSet:
    count = len(ids)
    numbers = np.arange(count, dtype=np.int32)
    return replace(
        like,
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64),
        flat={
            "input_ids": np.concatenate([*ids, np.zeros(0, np.int32)]).astype(np.int32),
            "labels": np.concatenate([*labels, np.zeros(0, np.int32)]).astype(np.int32),
        },
        per_row={
            "row": numbers,
            **{name: np.zeros(count, np.int32) for name in ("label", "prompt_length", "file", "line")},
        },
        references=(),
        other_references=(),
        stats=Stats(read=count, used=count),
    )
