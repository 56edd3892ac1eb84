"""Plan batches of few shapes, as a pure function of (lengths, settings, seed, epoch).

Every batch (B, T) of a new shape costs a compilation, every padded token costs time. So the run has a few lengths T (buckets),
batches hold rows of similar length, and a batch takes the smallest bucket that fits its longest row.
The batch at any position of any epoch is computed directly, without the batches before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from petrun.data.batches.packing import pack_in_order, pack_rows
from petrun.data.batches.units import Units
from petrun.data.examples.example_set import scramble
from petrun.data.formats.records import Array
from petrun.errors import ConfigError

Order: TypeAlias = Literal["shuffle", "file", "length"]
"""The order in which an epoch takes the rows."""
LENGTH_MULTIPLE = 8
"""Rows are padded to multiples of this many tokens."""
_POOL_BATCHES = 50
"""Rows are sorted by length within pools of so many batches: enough for little padding, few enough to keep batches random."""


def plan_shapes(lengths: Sequence[int] | Array, max_buckets: int, seq_len: int) -> tuple[int, ...]:
    """Return at most `max_buckets` sequence lengths that fit all `lengths` with the least padding, ascending.

    They are multiples of 8, but for a last one limited to seq_len (a model's positions may end there).
    Dynamic programme: with c(j, i) the padding of all lengths in (size_j, size_i] brought to size_i,
        best(k, i) = min over j < i of best(k - 1, j) + c(j, i).
    """
    lengths = np.asarray(lengths, np.int64)
    rounded = np.minimum(-(-np.maximum(lengths, 1) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, np.maximum(seq_len, lengths))
    sizes, counts = np.unique(rounded, return_counts=True)
    if len(sizes) <= max_buckets:
        return tuple(int(size) for size in sizes)
    rows = np.concatenate([[0], np.cumsum(counts)])
    tokens = np.concatenate([[0], np.cumsum(counts * sizes)])
    count = len(sizes)
    best = np.full(count + 1, np.inf)
    best[0] = 0.0
    choice = np.zeros((max_buckets, count + 1), np.int64)
    for k in range(max_buckets):
        following = np.full(count + 1, np.inf)
        for i in range(1, count + 1):
            cost = best[:i] + (rows[i] - rows[:i]) * sizes[i - 1] - (tokens[i] - tokens[:i])
            choice[k, i] = int(np.argmin(cost))
            following[i] = cost[choice[k, i]]
        best = following
    chosen, at = [], count
    for k in reversed(range(max_buckets)):
        chosen.append(int(sizes[at - 1]))
        at = int(choice[k, at])
        if not at:
            break
    return tuple(sorted(chosen))


@dataclass(frozen=True)
class BatchSpec:
    """One batch before it is collated: `units[b]` are the rows that share sequence b (one, unless packed)."""

    units: tuple[tuple[int, ...], ...]
    length: int
    """T; of an encoder-decoder that of the sources; 0 for array data."""
    target_length: int = field(default=0, kw_only=True)
    """Of an encoder-decoder: tokens that its decoder is given of each row."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.units), self.length, *([self.target_length] if self.target_length else []))

    @property
    def rows(self) -> tuple[int, ...]:
        return tuple(row for unit in self.units for row in unit)


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The batches of one epoch, with len(plan) and plan[k]."""

    units: Units = field(repr=False)
    order: Array = field(repr=False)
    """(n,) int64: units in the order of this epoch."""
    starts: Array
    """(batches, 2) int64: batch k is order[starts[k, 0]:starts[k, 1]]."""
    lengths: Array
    """(batches,) int64: T of each batch."""
    target_lengths: Array
    """(batches,) int64: BatchSpec.target_length of each batch."""

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, k: int) -> BatchSpec:
        if not 0 <= k < len(self):
            raise IndexError(k)
        first, stop = self.starts[k]
        units = tuple(self.units[i] for i in self.order[first:stop].tolist())
        return BatchSpec(units, int(self.lengths[k]), target_length=int(self.target_lengths[k]))

    def part(self, index: int, parts: int) -> BatchPlan:
        """Every `parts`-th batch, from batch `index` on: what one of several ranks reads that share the batches."""
        return replace(
            self,
            starts=self.starts[index::parts],
            lengths=self.lengths[index::parts],
            target_lengths=self.target_lengths[index::parts],
        )

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Return (B, T) of every batch, in order; of an encoder-decoder (B, tokens of the sources, of the targets)."""
        sizes = (self.starts[:, 1] - self.starts[:, 0]).tolist()
        pairs = zip(self.lengths.tolist(), self.target_lengths.tolist(), strict=True)
        return [(size, *lengths[: 1 + bool(lengths[1])]) for size, lengths in zip(sizes, pairs, strict=True)]


@dataclass(frozen=True)
class Batching:
    """The batches of a run. `epoch(e)` is a pure function of (this, e)."""

    units: Units = field(repr=False)
    """Rows that share a sequence: one each, unless packed."""
    lengths: Array = field(repr=False)
    """(n,) int64: tokens of each unit; of an encoder-decoder those of its source."""
    batch_size: int
    buckets: tuple[int, ...]
    """Sequence lengths; () for array data."""
    order: Order
    seed: int
    targets: Array | None = field(default=None, repr=False)
    """Of an encoder-decoder: (n,) int64, tokens that the decoder is given of each unit."""
    target_buckets: tuple[int, ...] = ()
    """Of an encoder-decoder: the length of the targets beside each sequence length of the sources."""

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.units) // self.batch_size)

    def epoch(self, epoch: int) -> BatchPlan:
        """Plan the batches of epoch 0, 1, ..., numbered as `_order_units` says."""
        order, edges = _order_units(
            self.lengths, self.batch_size, self.order, self.seed, epoch, pools=bool(self.buckets)
        )
        batches = len(edges) - 1
        padded = target_lengths = np.zeros(batches, np.int64)
        if self.buckets:
            longest = np.maximum.reduceat(self.lengths[order], edges[:-1])
            bucket = np.searchsorted(self.buckets, longest)
            padded = np.array(self.buckets, np.int64)[bucket]
            if self.target_buckets:
                target_lengths = np.array(self.target_buckets, np.int64)[bucket]
        sequence = np.arange(batches)
        if self.order == "shuffle":
            sequence = np.argsort(scramble(sequence, self.seed, epoch, "batches"), kind="stable")
        return BatchPlan(
            units=self.units,
            order=order,
            starts=np.stack([edges[:-1], edges[1:]], axis=1)[sequence],
            lengths=padded[sequence],
            target_lengths=target_lengths[sequence],
        )

    def shapes(self, epochs: int = 1) -> tuple[tuple[int, ...], ...]:
        """Return the shapes, as BatchPlan has them, of all batches of the first `epochs` epochs. A graph is compiled for each."""
        return tuple(
            sorted({shape for e in range(epochs if self.order == "shuffle" else 1) for shape in self.epoch(e).shapes})
        )

    def padding(self, epoch: int = 0) -> float:
        """Return the share of all tokens in an epoch that are padding."""
        total = padded_tokens(self.epoch(epoch).shapes)
        return 1.0 - self.tokens / total if total else 0.0

    @property
    def tokens(self) -> int:
        """Return the tokens of all units, without padding."""
        return int(self.lengths.sum()) + (0 if self.targets is None else int(self.targets.sum()))


def padded_tokens(shapes: Sequence[tuple[int, ...]]) -> int:
    """Return the tokens of batches of these shapes, with their padding; for array data 0."""
    return sum(size * sum(lengths) for size, *lengths in shapes)


def _order_units(lengths: Array, size: int, order: str, seed: int, epoch: int, *, pools: bool) -> tuple[Array, Array]:
    """Return (units in order (n,), edges (batches + 1,)): batch k is order[edges[k]:edges[k + 1]].

    "shuffle": units in an order drawn from (seed, epoch), sorted by length within pools, split into batches. The one batch
    that is smaller holds the shortest units of the last pool, so that its shape rarely changes from epoch to epoch.
    "file": batch k is units k B to k B + B - 1. "length": the longest units first.
    """
    count, batches = len(lengths), -(-len(lengths) // size)
    units, edges = np.arange(count), np.minimum(np.arange(batches + 1) * size, count)
    if order == "length":
        return np.argsort(-lengths, kind="stable"), edges
    if order == "file":
        return units, edges
    units = np.argsort(scramble(units, seed, epoch, "rows"), kind="stable")
    if not pools:
        return units, edges
    # Pools of equal size: a small last one would leave batches of mixed lengths.
    pool = -(-batches // -(-batches // _POOL_BATCHES)) * size
    pools_of_units = [units[i : i + pool] for i in range(0, count, pool)]
    units = np.concatenate([one[np.argsort(lengths[one], kind="stable")] for one in pools_of_units])
    last, over = (len(pools_of_units) - 1) * pool, count % size
    edges = np.array([*range(0, last, size), *([last] if over else []), *range(last + over, count + 1, size)])
    return units, edges


def plan_batches(
    lengths: Sequence[int] | Array,
    *,
    batch_size: int,
    seq_len: int,
    buckets: int = 4,
    order: Order = "shuffle",
    seed: int = 0,
    pack: bool = False,
    arrays: bool = False,
) -> Batching:
    """Plan the batches of rows of these lengths, (n,), or (n, 2) for an encoder-decoder: tokens of each source and of each target, of
    which `seq_len` limits each. Every length of sources has one length of targets: that of the longest beside a source that fits.

    Inputs: `order`, "shuffle" (training), "file" for the file's order, or "length" (evaluation, prediction) for the longest rows first;
    `pack` fills sequences of seq_len tokens with several rows; `arrays` True for data without lengths.
    Raises: ConfigError for settings that contradict each other.
    """
    lengths = np.asarray(lengths, np.int64)
    if arrays:
        if pack:
            raise ConfigError("--pack: array data has no sequences to fill", hint="Leave it out.")
        order = "file" if order == "length" else order
        return Batching(Units.single(len(lengths)), lengths, batch_size, (), order, seed)
    targets = None
    if lengths.ndim == 2:
        if pack:
            raise ConfigError("--pack: an encoder-decoder reads every source by itself", hint="Leave it out.")
        lengths, targets = lengths[:, 0], lengths[:, 1]
    if pack:
        units = pack_rows(lengths, seq_len) if order == "shuffle" else pack_in_order(lengths, seq_len)
        return Batching(units, units.sums(lengths), batch_size, (seq_len,), order, seed)
    units = Units.single(len(lengths))
    # A batch is as long as its longest row: the buckets are fitted to the lengths of the first epoch's batches.
    ordered, edges = _order_units(lengths, batch_size, order, seed, 0, pools=True)
    longest = np.maximum.reduceat(lengths[ordered], edges[:-1])
    sizes = plan_shapes(longest, buckets, seq_len)
    beside = () if targets is None else _target_lengths(lengths, targets, sizes, seq_len)
    return Batching(units, lengths, batch_size, sizes, order, seed, targets, beside)


def _target_lengths(sources: Array, targets: Array, sizes: tuple[int, ...], seq_len: int) -> tuple[int, ...]:
    """Return, for each length of sources, that of the targets beside them."""
    return tuple(plan_shapes(targets[sources <= size], 1, seq_len)[0] for size in sizes)
