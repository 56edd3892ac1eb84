"""Select a rank's share of every batch. A batch is planned for the whole job; each rank reads its own rows of it.

Ranks exchange nothing: the plan says which rows each rank reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from petrun.data.batches.buckets import BatchPlan, BatchSpec
from petrun.data.batches.collate import Batch
from petrun.data.batches.pipeline import batches
from petrun.data.examples.example_set import ExampleSet
from petrun.data.formats.records import Array
from petrun.data.tasks import PREFERENCE, TOKENS
from petrun.tensors.targets import is_scored, unscored
from petrun.typing import JsonObject


@dataclass(frozen=True, kw_only=True)
class RankShare:
    """Part `index` of `parts` equal parts of a batch."""

    index: int = 0
    parts: int = 1

    def bounds(self, count: int) -> tuple[int, int]:
        """Return (first, stop) of the part among `count` sequences: contiguous, sizes differ by at most one, may be empty."""
        return count * self.index // self.parts, count * (self.index + 1) // self.parts

    def of(self, spec: BatchSpec) -> BatchSpec:
        """Return the rank's part of a batch, with the batch's length. An empty part is replaced by the batch's first sequence, whose
        targets are then ignored: a rank without rows takes part in every step, because all ranks reduce together."""
        first, stop = self.bounds(len(spec.units))
        return replace(spec, units=spec.units[first:stop] or spec.units[:1])


WHOLE_BATCH = RankShare()


@dataclass(frozen=True)
class RankPlan:
    """One rank's part of every batch of an epoch, with len(plan) and plan[k]."""

    plan: BatchPlan
    share: RankShare

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, k: int) -> BatchSpec:
        return self.share.of(self.plan[k])


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """Counts that each row adds to a batch, known without collating it: (n,) int64 each."""

    scored: Array = field(repr=False)
    packed: Array = field(repr=False)
    """The same for a row that shares its sequence with others, without padding that the data holds."""
    tokens: Array = field(repr=False)

    def of(self, spec: BatchSpec) -> tuple[int, int]:
        """Return (scored targets, tokens that are not padding) of a batch; for array data, whose rows have no tokens, rows."""
        scored = sum(int((self.packed if len(unit) > 1 else self.scored)[list(unit)].sum()) for unit in spec.units)
        return scored, int(self.tokens[list(spec.rows)].sum())


def count_rows(examples: ExampleSet) -> RowCounts:
    """Count every row, by the rules of petrun/data/batches/collate.py."""
    parts = [_count_block(block) for block in examples.blocks()] or [_count_block(examples)]
    names = ("scored", "packed", "tokens")
    return RowCounts(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _count_block(examples: ExampleSet) -> RowCounts:
    known = is_scored(examples.per_row["label"]).astype(np.int64)
    if "input_ids" not in examples.flat:
        return RowCounts(scored=known, packed=known, tokens=np.ones(len(examples), np.int64))
    lengths = examples.lengths
    mask = examples.flat["mask"] > 0 if "mask" in examples.flat else np.ones(int(lengths.sum()), bool)
    tokens = _per_row(mask, examples.offsets)
    if "labels" not in examples.flat:
        return RowCounts(scored=known, packed=known, tokens=tokens)
    labelled, ends = is_scored(examples.flat["labels"]), examples.offsets
    if examples.task == TOKENS:
        tagged = _per_row(mask & labelled, ends)
        return RowCounts(scored=tagged, packed=tagged, tokens=tokens)
    if examples.task == PREFERENCE:
        pairs = _complete_pairs(labelled, examples.flat["mask"], ends)
        return RowCounts(scored=pairs, packed=pairs, tokens=tokens)
    scored = _per_row(_followed(mask & labelled, ends) & mask, ends)
    kept = np.concatenate([[0], np.cumsum(tokens)])
    return RowCounts(scored=scored, packed=_per_row(_followed(labelled[mask], kept), kept), tokens=tokens)


def _complete_pairs(labelled: Array, mask: Array, offsets: Array) -> Array:
    """Return 1 for every row with something to score in both answers, else 0: (n,) int64."""
    both = [_per_row(labelled & (mask == sequence), offsets) > 0 for sequence in (1, 2)]
    return (both[0] & both[1]).astype(np.int64)


def _per_row(flags: Array, offsets: Array) -> Array:
    """Count the set flags of each row: (S,) bool -> (n,)."""
    total = np.concatenate([[0], np.cumsum(flags)])
    counts: Array = total[offsets[1:]] - total[offsets[:-1]]
    return counts


def _followed(flags: Array, offsets: Array) -> Array:
    """Return (S,) bool: whether the next position of the same row is set."""
    after = np.append(flags[1:], False)
    after[offsets[1:][offsets[1:] > 0] - 1] = False
    return after


@dataclass(frozen=True, kw_only=True)
class RankBatch:
    """The batch that one rank computes, and facts of the whole batch."""

    batch: Batch
    first: int
    """Index of its first sequence in the whole batch."""
    rows: tuple[int, ...]
    """Row numbers of the whole batch."""
    scored: int
    """Scored targets of the whole batch."""
    tokens: int
    """Tokens of the whole batch."""

    @property
    def mapping(self) -> JsonObject:
        """Return inputs, targets and facts of the whole batch by name, for the training loop."""
        whole = {"rows": self.rows, "scored": self.scored, "tokens": self.tokens, "first": self.first}
        return {**self.batch.arrays, **whole}


def read_rank_batches(
    examples: ExampleSet,
    plan: BatchPlan,
    share: RankShare,
    counts: RowCounts,
    inputs: Sequence[str],
    *,
    pad_id: int = 0,
    start: int = 0,
) -> Iterator[RankBatch]:
    """Yield one rank's part of the plan's batches from batch `start` on."""
    for k, batch in enumerate(
        batches(examples, RankPlan(plan, share), inputs, pad_id=pad_id, start=start), start=start
    ):
        whole = plan[k]
        first, stop = share.bounds(len(whole.units))
        if first == stop:
            batch = Batch(batch.inputs, np.full_like(batch.targets, unscored(batch.targets.dtype)), ())
        rows = tuple(examples.per_row["row"][list(whole.rows)].tolist())
        scored, tokens = counts.of(whole)
        yield RankBatch(batch=batch, first=first, rows=rows, scored=scored, tokens=tokens)
