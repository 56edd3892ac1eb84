"""A rank's share of every batch. The batch is planned as one rank would plan it; each rank reads its own rows of it.

Nothing is told between ranks: what a rank reads, and what the others read, follows from the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from petrun.data.batches.buckets import BatchPlan, BatchSpec
from petrun.data.batches.collate import Batch
from petrun.data.batches.pipeline import batches
from petrun.data.examples.example_set import ExampleSet
from petrun.data.formats.records import Array
from petrun.tensors.targets import is_scored, unscored


@dataclass(frozen=True, kw_only=True)
class Share:
    """Part `index` of `parts` equal ones."""

    index: int = 0
    parts: int = 1

    def place(self, count: int) -> tuple[int, int]:
        """(first, stop) of the part among `count` sequences: neighbouring, as even as can be, maybe empty."""
        return count * self.index // self.parts, count * (self.index + 1) // self.parts

    def of(self, spec: BatchSpec) -> BatchSpec:
        """The part of a batch, as long as the whole. Where it is empty the batch's first sequence stands in, to be ignored:
        a rank without rows takes part in every step, so that all ranks reduce together."""
        first, stop = self.place(len(spec.units))
        return BatchSpec(spec.units[first:stop] or spec.units[:1], spec.length)


WHOLE = Share()


@dataclass(frozen=True)
class PlanShare:
    """The parts of an epoch's batches: len(plan), plan[k]."""

    plan: BatchPlan
    share: Share

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, k: int) -> BatchSpec:
        return self.share.of(self.plan[k])


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much each row adds to a batch, known without collating it: (n,) int64 each."""

    scored: Array = field(repr=False)
    packed: Array = field(repr=False)
    """As `scored`, for a row among others in a sequence, where padding that the data holds is left out."""
    tokens: Array = field(repr=False)

    def of(self, spec: BatchSpec) -> tuple[int, int]:
        """(scored targets, tokens that are no padding) of a batch; for array data, whose rows have no tokens, rows."""
        scored = sum(int((self.packed if len(unit) > 1 else self.scored)[list(unit)].sum()) for unit in spec.units)
        return scored, int(self.tokens[list(spec.rows)].sum())


def count_rows(examples: ExampleSet) -> Counts:
    """The counts of every row, by the rules of petrun/data/batches/collate.py."""
    known = is_scored(examples.per_row["label"]).astype(np.int64)
    if "input_ids" not in examples.flat:
        return Counts(scored=known, packed=known, tokens=np.ones(len(examples), np.int64))
    lengths = examples.lengths
    mask = examples.flat["mask"] == 1 if "mask" in examples.flat else np.ones(int(lengths.sum()), bool)
    tokens = _per_row(mask, examples.offsets)
    if "labels" not in examples.flat:
        return Counts(scored=known, packed=known, tokens=tokens)
    labelled, ends = is_scored(examples.flat["labels"]), examples.offsets
    scored = _per_row(_followed(mask & labelled, ends) & mask, ends)
    kept = np.concatenate([[0], np.cumsum(tokens)])
    return Counts(scored=scored, packed=_per_row(_followed(labelled[mask], kept), kept), tokens=tokens)


def _per_row(flags: Array, offsets: Array) -> Array:
    """(S,) bool -> (n,) how many are set in each row."""
    total = np.concatenate([[0], np.cumsum(flags)])
    counts: Array = total[offsets[1:]] - total[offsets[:-1]]
    return counts


def _followed(flags: Array, offsets: Array) -> Array:
    """(S,) bool: whether the next position of the same row is set."""
    after = np.append(flags[1:], False)
    after[offsets[1:][offsets[1:] > 0] - 1] = False
    return after


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one rank feeds, and what it has to know of the whole batch."""

    batch: Batch
    first: int
    """Place of its first sequence in the whole batch."""
    rows: tuple[int, ...]
    """Row numbers of the whole batch."""
    scored: int
    """Scored targets of the whole batch."""
    tokens: int
    """Tokens of the whole batch."""

    @property
    def mapping(self) -> dict[str, Any]:
        """As the training loop takes it."""
        whole = {"rows": self.rows, "scored": self.scored, "tokens": self.tokens, "first": self.first}
        return {**self.batch.arrays, **whole}


def parts(
    examples: ExampleSet,
    plan: BatchPlan,
    share: Share,
    counts: Counts,
    inputs: Sequence[str],
    *,
    pad_id: int = 0,
    start: int = 0,
) -> Iterator[Part]:
    """One rank's part of the plan's batches from `start` on."""
    for k, batch in enumerate(
        batches(examples, PlanShare(plan, share), inputs, pad_id=pad_id, start=start), start=start
    ):
        whole = plan[k]
        first, stop = share.place(len(whole.units))
        if first == stop:
            batch = Batch(batch.inputs, np.full_like(batch.targets, unscored(batch.targets.dtype)), ())
        rows = tuple(examples.per_row["row"][list(whole.rows)].tolist())
        scored, tokens = counts.of(whole)
        yield Part(batch=batch, first=first, rows=rows, scored=scored, tokens=tokens)
