"""Attach several deltas to one net, of which each row of a batch uses one: cells that hold the deltas in stacks.

The first axis of a stack is the adapter index; index 0 changes nothing. A parameter of the graph holds the adapter index of each row, so
switching writes a few numbers and compiles nothing. A cell finds a row's adapter by the row's position on the first axis of its input.

    linear layer:  y = (x l_in) W^T + b + x A^T B^T,  then y * l_out + shift       LoRA, DoRA, (IA)^3
    head:          y = x W_s^T + b_s                                              layers that were trained in full
    core, embedding, positions: virtual tokens, padded at the front to the largest number of any adapter; padding is masked

S adapters, B rows, T tokens, R rank, H hidden, P virtual tokens, N_kv key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from petrun.graph.sites import Sites
from petrun.graph.surgery import cells, swap
from petrun.graph.virtual_tokens import PREFIX, PROMPT, reserve
from petrun.kernels import fused, native
from petrun.tensors import Array
from petrun.typing import Cell, DType


def adapter_indices(rows: int) -> Parameter:
    """(rows,) int32: the adapter index of each row of a batch; a smaller batch uses the first ones."""
    return Parameter(Tensor(np.zeros(rows, np.int32)), name="petrun_adapter_indices", requires_grad=False)


def _stack(values: Array, name: str) -> Parameter:
    return Parameter(Tensor(np.ascontiguousarray(values, np.float32)), name=name, requires_grad=False)


class _MultiAdapterCell(fused.FusedCell):
    """A cell of the net with stacks beside it."""

    def __init__(self, base: Cell, indices: Tensor) -> None:
        super().__init__()
        self.base = base
        # All cells share this parameter, and it is not one of the net's own.
        object.__setattr__(self, "indices", indices)

    def own(self, stack: Parameter, rows: int) -> Tensor:
        """Return each row's part of a stack: (S, ...) -> (rows, ...)."""
        return ops.gather(stack, self.indices[:rows], 0)


class MultiAdapterLinear(_MultiAdapterCell):
    """A linear layer with LoRA's products and scales. On the CPU a C++ operator reads each row's matrices where they lie.

    Inputs: x (B, T, in) or (B, in). Returns: (B, T, out) or (B, out), in the layer's dtype.
    Stacks, each optional: a (S, R, in) and b (S, out, R), the scale inside; before (S, in); after and shift (S, out).
    """

    def __init__(self, base: Cell, indices: Tensor, stacks: Mapping[str, Array]) -> None:
        super().__init__(base, indices)
        self.low_rank = "a" in stacks
        if self.low_rank:
            self.a, self.b = _stack(stacks["a"], "a"), _stack(stacks["b"], "b")
        self.scaled_before = "before" in stacks
        if self.scaled_before:
            self.before = _stack(stacks["before"], "before")
        self.scaled_after = "after" in stacks
        if self.scaled_after:
            self.after, self.shift = _stack(stacks["after"], "after"), _stack(stacks["shift"], "shift")
        self.product = ops.BatchMatMul(transpose_b=True)
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.row_adapters, library)

    def construct(self, x: Tensor) -> Tensor:
        flat = x.ndim == 2
        if flat:
            x = ops.expand_dims(x, 1)
        rows = x.shape[0]
        if self.scaled_before:
            x = ops.cast(ops.cast(x, ms.float32) * ops.expand_dims(self.own(self.before, rows), 1), x.dtype)
        y = self.base(x)
        if self.low_rank and self.is_fused and x.dtype == ms.float32 and y.dtype == ms.float32:
            y = self.fused(y, x, self.a, self.b, self.indices)
        elif self.low_rank:
            inner = self.product(x, ops.cast(self.own(self.a, rows), x.dtype))
            y = y + ops.cast(self.product(inner, ops.cast(self.own(self.b, rows), x.dtype)), y.dtype)
        if self.scaled_after:
            scale, shift = self.own(self.after, rows), self.own(self.shift, rows)
            scaled = ops.cast(y, ms.float32) * ops.expand_dims(scale, 1) + ops.expand_dims(shift, 1)
            y = ops.cast(scaled, y.dtype)
        return ops.reshape(y, (rows, -1)) if flat else y


class MultiAdapterHead(_MultiAdapterCell):
    """A linear layer that an adapter may replace with one of its own.

    Inputs and Returns: as MultiAdapterLinear. Stacks: weight (S, out, in), bias (S, out), replaces (S,) 1 where the adapter has one.
    """

    def __init__(self, base: Cell, indices: Tensor, stacks: Mapping[str, Array]) -> None:
        super().__init__(base, indices)
        self.weight, self.bias = _stack(stacks["weight"], "weight"), _stack(stacks["bias"], "bias")
        self.replaces = _stack(stacks["replaces"], "replaces")
        self.product = ops.BatchMatMul(transpose_b=True)

    def construct(self, x: Tensor) -> Tensor:
        flat = x.ndim == 2
        if flat:
            x = ops.expand_dims(x, 1)
        rows = x.shape[0]
        y = self.base(x)
        trained = self.product(x, ops.cast(self.own(self.weight, rows), x.dtype))
        trained = ops.cast(trained, y.dtype) + ops.cast(ops.expand_dims(self.own(self.bias, rows), 1), y.dtype)
        replaced = ops.reshape(self.own(self.replaces, rows), (rows, 1, 1)) > 0.5
        y = ops.select(ops.broadcast_to(replaced, y.shape), trained, y)
        return ops.reshape(y, (rows, -1)) if flat else y


class MultiAdapterCore(_MultiAdapterCell):
    """An attention core that attends to its row's virtual tokens, from its prefix or from the prompt, but not to padded ones.

    Inputs: as the core's, the mask (B, 1, T, P_prefix + P_prompt + S), virtual tokens first. Returns: the core's.
    Stacks: prefix (S, 2, N_kv, P_prefix, D), keys first, where there is one; seen (S, P_prefix + P_prompt), 1 for a virtual token.
    """

    def __init__(self, base: Cell, indices: Tensor, prefix: Array | None, seen: Array) -> None:
        super().__init__(base, indices)
        self.has_prefix = prefix is not None
        if prefix is not None:
            self.prefix = _stack(prefix, "prefix")
        self.seen = _stack(seen, "seen")
        self.count = seen.shape[1]

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        rows = q.shape[0]
        if self.has_prefix:
            learned = ops.cast(self.own(self.prefix, rows), k.dtype)
            k, v = ops.concat((learned[:, 0], k), 2), ops.concat((learned[:, 1], v), 2)
        seen = ops.reshape(self.own(self.seen, rows), (rows, 1, 1, self.count)) > 0.5
        virtual = ops.logical_and(mask[:, :, :, : self.count], seen)
        return self.base(q, k, v, ops.concat((virtual, mask[:, :, :, self.count :]), 3))


class MultiAdapterEmbedding(_MultiAdapterCell):
    """A token embedding with a prompt for every row, which the net puts before it. Stack: prompt (S, P, H)."""

    def __init__(self, base: Cell, indices: Tensor, prompt: Array) -> None:
        super().__init__(base, indices)
        self.table = _stack(prompt, "table")

    def prompt(self, rows: int, dtype: DType) -> Tensor:
        """(B, P, H)."""
        return ops.cast(self.own(self.table, rows), dtype)

    def construct(self, ids: Tensor) -> Tensor:
        return self.base(ids)


class MultiAdapterPositions(_MultiAdapterCell):
    """A cell of the net that reads positions, with each row's positions counted from its own first virtual token.

    Inputs: positions (B, T) int32. Stack: padded (S,), virtual tokens that the adapter does not have.
    """

    def __init__(self, base: Cell, indices: Tensor, padded: Array) -> None:
        super().__init__(base, indices)
        self.padded = _stack(padded, "padded")

    def construct(self, positions: Tensor) -> Tensor:
        padded = ops.cast(self.own(self.padded, positions.shape[0]), positions.dtype)
        return self.base(ops.maximum(positions - ops.expand_dims(padded, 1), 0))


def add_linears(net: Cell, indices: Tensor, stacks: Mapping[str, Mapping[str, Array]]) -> None:
    """Replace the linear layers. `stacks`: path of a linear layer -> its stacks."""

    def builder(path: str) -> Callable[[Cell], Cell]:
        kind = MultiAdapterHead if "weight" in stacks[path] else MultiAdapterLinear
        return lambda cell: _trained_like(cell, kind(cell, indices, stacks[path]))

    swap(net, {path: builder(path) for path in stacks})


def add_virtual(
    net: Cell,
    indices: Tensor,
    *,
    sites: Sites,
    prefix: Mapping[str, Array | None],
    prompt: Array | None,
    seen: Array,
) -> None:
    """Add virtual tokens. `prefix`: path of every core -> its stack or None; `seen`: (S, P_prefix + P_prompt); `sites`: the net's.

    Raises TargetError where the net has virtual tokens already.
    """
    count = 0 if prompt is None else prompt.shape[1]
    reserve(net, PROMPT, count)
    prefix_count = seen.shape[1] - count
    reserve(net, PREFIX, prefix_count)
    placed = seen if sites.prefix_positions else seen[:, prefix_count:]
    padded = placed.shape[1] - placed.sum(1)
    positions = sites.positions

    def core(path: str) -> Callable[[Cell], Cell]:
        return lambda cell: _trained_like(cell, MultiAdapterCore(cell, indices, prefix[path], seen))

    builders = {path: core(path) for path in prefix}
    places = [path for path in cells(net) if fnmatchcase(path, positions)]
    assert places or not positions, f"the family says that positions go to {positions}, and there is no such cell"
    for path in places:
        builders[path] = lambda cell: _trained_like(cell, MultiAdapterPositions(cell, indices, padded))
    if prompt is not None:
        builders[sites.embedding] = lambda cell: _trained_like(cell, MultiAdapterEmbedding(cell, indices, prompt))
    swap(net, builders)


def linear_at(net: Cell, path: str) -> Cell | None:
    """Return the nn.Dense at a path; None where there is none."""
    cell = cells(net).get(path)
    return cell if isinstance(cell, nn.Dense) else None


def _trained_like(cell: Cell, wrapped: Cell) -> Cell:
    wrapped.set_train(cell.training)
    return wrapped
