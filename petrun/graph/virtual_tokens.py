"""Add virtual tokens to a net: learned vectors before its rows, as embeddings or as keys and values.

There are two kinds. A prompt stands before the token embeddings, so every layer computes with it. A prefix stands before the keys and
values of each attention core; no layer computes it. Positions, masks and caches must include both.

A net that supports them declares `prompt_tokens = 0` and `prefix_tokens = 0`, which `reserve` sets: it prepends the prompt with
`embedding.prompt(rows)`, masks, and gives logits of the real tokens alone. In any other net the cells here do all of it: the
embedding lengthens its result, the core lengthens its mask, the head drops the virtual positions.

B rows, T tokens, P virtual tokens, H hidden, N_kv key/value heads, D head width, S keys.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from petrun.errors import TargetError
from petrun.graph.sites import Sites
from petrun.graph.surgery import cells, swap
from petrun.tensors import Array
from petrun.typing import Cell, DType, Tensor

PROMPT = "prompt_tokens"
PREFIX = "prefix_tokens"


class PrefixedCore(nn.Cell):
    """An attention core that attends to P learned keys and values before its own.

    Inputs: q (B, N, T, D); k, v (B, N_kv, S, D); mask (B, 1, T, S) bool, or (B, 1, T, P + S) from a net that supports the prefix; what
    else the core takes, for P + S keys.
    Returns: the core's (B, N, T, D). `encoder()` gives (2, N_kv, P, D), keys first.
    """

    def __init__(self, core: Cell, encoder: Cell) -> None:
        super().__init__()
        self.core = core
        self.encoder = encoder
        self.pick, self.widen, self.join, self.is_sharded = ops.StridedSlice(), ops.Tile(), ops.Concat(2), False

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard the core as its role says. The encoder of the prefix is not sharded: each rank takes its heads of the result."""
        self.is_sharded = True
        self.core.set_layout(how, dp, tp)
        _leave_unsharded(self.encoder)
        heads = (dp, tp, 1, 1)
        self.pick.shard(((1, tp, 1, 1),))
        self.widen.shard((heads,))
        self.join.shard((heads, heads))

    def widened(self, learned: Tensor, which: int, rows: int) -> Tensor:
        """Return keys (0) or values (1) of the prefix, repeated for each row: (B, N_kv, P, D)."""
        _, heads, count, width = learned.shape
        if self.is_sharded:
            one = self.pick(learned, (which, 0, 0, 0), (which + 1, heads, count, width), (1, 1, 1, 1))
            return self.widen(one, (rows, 1, 1, 1))
        return ops.broadcast_to(learned[which : which + 1], (rows, heads, count, width))

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *more: Tensor) -> Tensor:
        rows, own = k.shape[0], k.shape[2]
        learned = ops.cast(self.encoder(), k.dtype)
        count = learned.shape[2]
        keys, values = self.widened(learned, 0, rows), self.widened(learned, 1, rows)
        if mask.shape[-1] == own:
            seen = ops.ones((*mask.shape[:-1], count), ms.bool_)
            mask = ops.concat((seen, mask), -1)
        return self.core(q, self.join((keys, k)), self.join((values, v)), mask, *more)


class PromptedEmbedding(nn.Cell):
    """A token embedding with P learned vectors before the row.

    Inputs: ids (B, T) int32. Returns: (B, T, H), or (B, P + T, H) with `prepend`. `encoder()` gives (P, H).
    """

    def __init__(self, base: Cell, encoder: Cell, prepend: bool) -> None:
        super().__init__()
        self.base = base
        self.encoder = encoder
        self.prepend = prepend

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard the table as its role says; the encoder of the prompt is not sharded."""
        self.base.set_layout(how, dp, tp)
        _leave_unsharded(self.encoder)

    def prompt(self, rows: int, dtype: DType) -> Tensor:
        """Return the learned vectors, repeated for each row: (B, P, H)."""
        learned = ops.cast(self.encoder(), dtype)
        return ops.broadcast_to(ops.expand_dims(learned, 0), (rows, *learned.shape))

    def construct(self, ids: Tensor) -> Tensor:
        x = self.base(ids)
        if self.prepend:
            x = ops.concat((self.prompt(x.shape[0], x.dtype), x), 1)
        return x


class TrimmedHead(nn.Cell):
    """A head that leaves out the P virtual positions. Inputs: x (B, P + T, H). Returns: the head's (B, T, V)."""

    def __init__(self, base: Cell, count: int) -> None:
        super().__init__()
        self.base = base
        self.count = count

    def construct(self, x: Tensor) -> Tensor:
        return self.base(x[:, self.count :])


def _leave_unsharded(encoder: Cell) -> None:
    """Keep every operator between the learned values and the virtual tokens unsharded on each rank."""
    for _, cell in encoder.cells_and_names():
        if hasattr(cell, "set_layout"):
            cell.set_layout("whole", 1, 1)


def reserve(net: Cell, kind: str, count: int) -> bool:
    """Tell every cell that declares `kind` (PROMPT or PREFIX) how many virtual tokens there are. Returns False where none declares it.

    Raises TargetError where another method has reserved them already.
    """
    takers = [cell for _, cell in net.cells_and_names() if hasattr(cell, kind)]
    if any(getattr(cell, kind) for cell in takers):
        raise TargetError("the model has virtual tokens already")
    for cell in takers:
        setattr(cell, kind, count)
    return bool(takers)


def core_paths(net: Cell, sites: Sites) -> tuple[str, ...]:
    """Return the paths of the attention cores, in the net's order. Raises TargetError where the model names none."""
    found = tuple(path for path in cells(net) if sites.cores and fnmatchcase(path, sites.cores))
    if not found:
        raise TargetError(
            "the model names no attention cores, before whose keys and values a prefix could stand",
            hint="A factory of your own says where they are: return (net, Sites(cores='layers.*.attn.core', ...)).",
        )
    return found


def add_prefix(net: Cell, sites: Sites, count: int, encoder: Callable[[str], Cell]) -> tuple[str, ...]:
    """Put a prefix of `count` tokens before every attention core; encoder(path) makes the cell that returns (2, N_kv, P, D).

    Returns the names of the new parameters. Raises TargetError.
    """
    paths = core_paths(net, sites)
    reserve(net, PREFIX, count)

    def builder(path: str) -> Callable[[Cell], Cell]:
        return lambda core: _trained_like(core, PrefixedCore(core, encoder(path)))

    return swap(net, {path: builder(path) for path in paths})


def add_prompt(net: Cell, sites: Sites, count: int, encoder: Cell | None) -> tuple[str, ...]:
    """Put a prompt of `count` vectors before the embedded row; `encoder`: the cell that returns (P, H); None only where
    the net has no token embedding, which is an error.

    Returns the names of the new parameters. Raises TargetError.
    """
    found = [path for path in cells(net) if sites.embedding and path == sites.embedding]
    if not found:
        raise TargetError(
            "the model names no token embedding, before which a prompt could stand",
            hint="A factory of your own says where it is: return (net, Sites(embedding='embed', head='head', ...)).",
        )
    assert encoder is not None
    prompt: Cell = encoder
    knows = reserve(net, PROMPT, count)
    builders: dict[str, Callable[[Cell], Cell]] = {
        sites.embedding: lambda cell: _trained_like(cell, PromptedEmbedding(cell, prompt, not knows))
    }
    if not knows and sites.head in cells(net):
        builders[sites.head] = lambda cell: _trained_like(cell, TrimmedHead(cell, count))
    return swap(net, builders)


def computed_tokens(net: Cell) -> dict[str, Array]:
    """Compute the encoders: path of the core -> (P, 2 * N_kv * D), columns [key | value]; of the embedding -> (P, H)."""
    tables: dict[str, Array] = {}
    for path, cell in cells(net).items():
        if isinstance(cell, PrefixedCore):
            values = cell.encoder().asnumpy().astype(np.float32)
            tables[path] = np.ascontiguousarray(values.transpose(2, 0, 1, 3).reshape(values.shape[2], -1))
        elif isinstance(cell, PromptedEmbedding):
            tables[path] = cell.encoder().asnumpy().astype(np.float32)
    return tables


def _trained_like(cell: Cell, wrapped: Cell) -> Cell:
    wrapped.set_train(cell.training)
    return wrapped
