"""Rows: of the table of tokens only the named rows train, in the embedding and in the head.

    E'[i] = v_k where i is the k-th of the rows, else E[i];   logits'[i] = v_k . x for those rows, else logits[i]

The table itself stays frozen, so its gradient is not computed, and the optimizer has states for the rows alone. Where the head shares
the embedding's table, it shares the rows; a head with a table of its own has rows of its own. A merge puts the values in place.

Source: peft's trainable tokens (`tuners/trainable_tokens`), which stores the same values. Cui, Yang and Yao, "Efficient and Effective Text
Encoding for Chinese LLaMA and Alpaca", arXiv 2304.08177, section 2, trains whole tables for the sake of the new rows.

B batch, T tokens, H hidden, V vocabulary, M rows of a matrix product, N trained rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from pydantic import Field, field_validator

from petrun.delta.forms import LayerTensor, Tensors
from petrun.delta.method import ALL, Method, MethodConfig, Update
from petrun.errors import TargetError
from petrun.graph.packed_weight import is_outlined, packed_of
from petrun.graph.sites import Sites
from petrun.graph.surgery import cells, swap
from petrun.tensors import Array
from petrun.typing import Cell

ROWS = "mindpet_delta_rows"
NEW = "new"
"""Stands for the rows that `petrun vocab merge` appended, which its base names."""
_RUN = re.compile(r"(\d+)(?:-(\d+))?")
_MOST_RUNS = 64
"""The logits are put together of so many pieces at most."""


def parse_rows(text: str) -> tuple[tuple[int, int], ...]:
    """Parse `7,120-199` into ((7, 8), (120, 200)): runs of token ids, ascending, neighbours joined. Raises ValueError."""
    runs: list[tuple[int, int]] = []
    for part in text.replace(" ", "").split(","):
        match = _RUN.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is not a token id or a range of them: give new, or ids such as 7,120-199")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{part}: ends before it begins")
        runs.append((first, last + 1))
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(runs):
        if joined and start < joined[-1][1]:
            raise ValueError(f"{start} stands twice")
        if joined and start == joined[-1][1]:
            start = joined.pop()[0]
        joined.append((start, stop))
    return tuple(joined)


def ids_of(text: str) -> Array:
    """Return the token ids of `7,120-199`, (N,) int64, ascending. Raises ValueError."""
    return np.concatenate([np.arange(start, stop) for start, stop in parse_rows(text)])


def spell_rows(ids: Iterable[int]) -> str:
    """Spell token ids as ranges: the inverse of `parse_rows`."""
    runs = parse_rows(",".join(str(i) for i in ids))
    return ",".join(str(start) if stop == start + 1 else f"{start}-{stop - 1}" for start, stop in runs)


class RowsConfig(MethodConfig):
    """Settings of the rows."""

    rows: str = Field(
        NEW, description="token ids whose rows train: new (those that petrun vocab merge appended), or 7,120-199"
    )

    rows_of_head: bool = Field(True, description="the head's rows as well, where it has a table of its own")

    @field_validator("rows", mode="before")
    @classmethod
    def _parsed(cls, value: object) -> object:
        # YAML reads one id as a number.
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and value.strip() != NEW:
            return spell_rows(ids_of(value))
        return value.strip() if isinstance(value, str) else value

    def known_rows(self) -> str:
        """Return the ids as ranges. Raises TargetError where the rows are still `new`."""
        if self.rows == NEW:
            raise TargetError(
                "delta.rows new: this base does not say which of its rows are new",
                hint="petrun vocab merge writes a base that says so; for any other give ids: --train-rows 32000-49952.",
            )
        return self.rows


class RowsEmbedding(nn.Cell):
    """An embedding of which some rows train.

    Args: table: the embedding, whose weight (V, H) is kept as the same object. ids: (N,) of the rows. values: (N, H) float32.

    Inputs: ids (B, T) int32. Returns: (B, T, H) in the table's dtype.
    Owns: mindpet_delta_rows (N, H) float32.
    """

    def __init__(self, table: Cell, ids: Array, values: Parameter) -> None:
        super().__init__()
        self.dtype, self.width = table.dtype, table.width
        self.weight = table.weight
        self.mindpet_delta_rows = values
        places = np.full(table.weight.shape[0], -1, np.int32)
        places[ids] = np.arange(len(ids))
        self.places = Tensor(places)
        self.gather, self.place, self.row = ops.Gather(), ops.Gather(), ops.Gather()
        self.above, self.least, self.select = ops.GreaterEqual(), ops.Maximum(), ops.Select()
        self.set_train(table.training)

    def construct(self, ids: Tensor) -> Tensor:
        base = ops.cast(self.gather(self.weight, ids, 0), self.dtype)
        place = self.place(self.places, ids, 0)
        # Old tokens read row 0, and Select gives their gradient there as zeros.
        trained = ops.cast(self.row(self.mindpet_delta_rows, self.least(place, 0), 0), self.dtype)
        is_trained = ops.broadcast_to(ops.expand_dims(self.above(place, 0), -1), base.shape)
        return self.select(is_trained, trained, base)


class RowsHead(nn.Cell):
    """A head of which some rows train: the logits of the base, and in the places of the rows x V^T.

    Args: dense: the head, kept as it is. runs: (start, stop) of the rows, ascending. values: (N, H) float32.

    Inputs: x (..., H). Returns: (..., V) in x's dtype.
    Owns: mindpet_delta_rows (N, H) float32; of a tied head the embedding does.
    """

    def __init__(self, dense: Cell, runs: Sequence[tuple[int, int]], values: Parameter) -> None:
        super().__init__()
        self.weight = dense.weight
        self.mindpet_delta_rows = values
        self.base = dense
        self.vocabulary, self.inputs = dense.out_channels, dense.in_channels
        self.pieces = _pieces(runs, dense.out_channels)
        self.has_bias = bool(dense.has_bias)
        if self.has_bias:
            self.bias_ids = Tensor(np.concatenate([np.arange(start, stop) for start, stop in runs]).astype(np.int32))
            self.bias_gather, self.bias_add = ops.Gather(), ops.Add()
        self.matmul, self.join = ops.MatMul(transpose_b=True), ops.Concat(1)
        self.cut = ops.StridedSlice()
        self.set_train(dense.training)

    def construct(self, x: Tensor) -> Tensor:
        shape = x.shape
        flat = ops.reshape(x, (-1, self.inputs))
        base = ops.reshape(self.base(x), (-1, self.vocabulary))
        trained = self.matmul(flat, ops.cast(self.mindpet_delta_rows, x.dtype))
        if self.has_bias:
            trained = self.bias_add(trained, ops.cast(self.bias_gather(self.base.bias, self.bias_ids, 0), x.dtype))
        count = base.shape[0]
        parts: tuple[Tensor, ...] = ()
        for is_trained, start, stop in self.pieces:
            source = trained if is_trained else base
            parts = (*parts, self.cut(source, (0, start), (count, stop), (1, 1)))
        return ops.reshape(self.join(parts), (*shape[:-1], self.vocabulary))


def _pieces(runs: Sequence[tuple[int, int]], vocabulary: int) -> tuple[tuple[bool, int, int], ...]:
    """Return the pieces of the logits in their order: (of the trained rows or of the base, first column there, end)."""
    found: list[tuple[bool, int, int]] = []
    done = taken = 0
    for start, stop in runs:
        if start > done:
            found.append((False, done, start))
        found.append((True, taken, taken + stop - start))
        done, taken = stop, taken + stop - start
    if done < vocabulary:
        found.append((False, done, vocabulary))
    return tuple(found)


def attach(net: Cell, config: RowsConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Train the rows of the token embedding, and of the head where the model predicts tokens. Returns the names of their values.

    They start as the base's rows. Raises TargetError: a model without a token table, ids outside it.
    """
    rows, table = config.known_rows(), cells(net)
    runs, ids = parse_rows(rows), ids_of(rows)
    if not sites.embedding or sites.embedding not in sites.tables or sites.embedding not in table:
        raise TargetError(
            "the model does not name a table of token embeddings whose rows could train",
            hint="A built-in family has one; a factory of your own names it: Sites(embedding='embed', tables=('embed',)).",
        )
    embedding = table[sites.embedding]
    _check_ids(config, ids, runs, embedding.weight.shape[0])
    values = _values(embedding, ids)
    builders = {sites.embedding: lambda cell: RowsEmbedding(cell, ids, values)}
    head = table.get(sites.head)
    predicts_tokens = not any(fnmatchcase(f"{sites.head}.weight", glob) for glob in sites.trained_heads)
    is_tied = head is not None and head.weight is embedding.weight
    if head is not None and predicts_tokens and (is_tied or config.rows_of_head):
        if not isinstance(head, nn.Dense) or packed_of(head) is not None or head.weight.shape[0] <= int(ids[-1]):
            raise TargetError(
                f"{sites.head} is no matrix with a row for each token in full precision, so its rows cannot train",
                hint="Leave --train-rows out, or use a base whose head is not quantised.",
            )
        own = values if is_tied else _values(head, ids)
        builders[sites.head] = lambda cell: RowsHead(cell, runs, own)
    return swap(net, builders)


def _check_ids(config: RowsConfig, ids: Array, runs: Sequence[tuple[int, int]], size: int) -> None:
    if int(ids[-1]) >= size:
        raise TargetError(
            f"delta.rows {config.rows}: the token table has {size} rows, ids 0 to {size - 1}",
            hint="Is this the base that petrun vocab merge wrote?",
        )
    if len(runs) > _MOST_RUNS:
        raise TargetError(
            f"delta.rows: {len(runs)} separate runs of ids, {_MOST_RUNS} are possible",
            hint="Give ranges: rows between two runs may train as well.",
        )


def _values(cell: Cell, ids: Array) -> Parameter:
    """Return the base's rows as a parameter, float32; of a net without weights, zeros."""
    if is_outlined(cell):
        return Parameter(Tensor(np.zeros((len(ids), cell.weight.shape[1]), np.float32)), name=ROWS)
    # numpy has no bfloat16.
    return Parameter(Tensor(cell.weight.value().astype(ms.float32).asnumpy()[ids]), name=ROWS)


def merge(config: RowsConfig, tensors: Tensors) -> Update:
    """W[i] <- v_k for the k-th of the rows; every other row keeps its bits."""
    ids = ids_of(config.known_rows())

    @lru_cache(maxsize=2)
    def values(name: str) -> Array:
        # Of the table at hand, which may come in many blocks of rows.
        return tensors[name]

    def update(name: str, value: Array, rows: slice = ALL) -> Array:
        path, _, leaf = name.rpartition(".")
        if leaf != "weight" or f"{path}.{ROWS}" not in tensors:
            return value
        first = rows.start or 0
        held = np.flatnonzero((ids >= first) & (ids < first + len(value)))
        if not len(held):
            return value
        merged = value.copy()
        merged[ids[held] - first] = values(f"{path}.{ROWS}")[held]
        return merged

    return update


def why_no_sum(config: RowsConfig) -> str:
    """Return why its deltas do not add up: two of them put two values in one place."""
    return "which puts rows in the place of the base's: two of them are no sum"


METHOD = Method(
    name="rows",
    config=RowsConfig,
    default_lr=1e-3,
    attach=attach,
    tensors={ROWS: LayerTensor(axes=2, inputs=1, shared=True)},
    merge=merge,
    why_no_sum=why_no_sum,
    peft=("TRAINABLE_TOKENS",),
    why_not_split="trains rows of the token table, whose logits are put together on a rank that holds the full table",
    owning=False,
)
