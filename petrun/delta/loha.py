"""LoHa: the update of a layer is the entry-wise product of two low-rank matrices, whose rank may reach R^2.

    y = act(x W^T + b + s x D^T),   D = (W1a W1b) * (W2a W2b),   s = alpha / R
    D = B A,   B[:, (i, j)] = W1a[:, i] * W2a[:, j],   A[(i, j), :] = W1b[i] * W2b[j]     of rank R^2

Source: Hyeon-Woo et al., "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning", arXiv 2108.06098,
proposition 1; names, scale and initial values as in peft 0.21, tuners/loha/layer.py. The second line holds column by column; with it no
matrix of the size of W is made, where R^2 is below the layer's widths.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, ops
from pydantic import Field

from petrun.delta.dense import AddedDense, adapt, arguments_like, drawn
from petrun.delta.forms import (
    AdapterTensors,
    BaseValues,
    LayerTensor,
    LowRankUpdate,
    Tensors,
    factors_of,
    layers_with,
)
from petrun.delta.method import ALL, Method, Update
from petrun.delta.ranks import RankedConfig, check_patterns
from petrun.graph.sites import Sites
from petrun.graph.surgery import resolve_targets
from petrun.tensors import Array
from petrun.typing import Cell

LOHA_W1_A = "mindpet_delta_loha_w1_a"
LOHA_W1_B = "mindpet_delta_loha_w1_b"
LOHA_W2_A = "mindpet_delta_loha_w2_a"
LOHA_W2_B = "mindpet_delta_loha_w2_b"


class LohaConfig(RankedConfig):
    """Settings of LoHa."""

    rank: int = Field(8, ge=1, description="R, rank of each of the two matrices; a step's work grows with R^2")


class LohaDense(AddedDense):
    """A linear layer with the entry-wise product of two low-rank matrices beside it.

    Inputs: x (..., in_channels). Returns (..., out_channels) in the dtype of x.
    Owns: mindpet_delta_loha_w1_a, _w2_a (out_channels, R) and _w1_b, _w2_b (R, in_channels), float32: uniform in +-1/sqrt(columns), but
    w2_b, which is 0 at first.
    """

    def __init__(
        self, in_channels: int, out_channels: int, rank: int, scale: float, seed: int, path: str, **base: Any
    ) -> None:
        super().__init__(in_channels, out_channels, **base)

        def start(part: str, rows: int, columns: int) -> Tensor:
            return Tensor(drawn(f"{path}.{part}", (rows, columns), columns, seed))

        zeros = Tensor(np.zeros((rank, in_channels), np.float32))
        self.mindpet_delta_loha_w1_a = Parameter(start("w1_a", out_channels, rank), name=LOHA_W1_A)
        self.mindpet_delta_loha_w1_b = Parameter(start("w1_b", rank, in_channels), name=LOHA_W1_B)
        self.mindpet_delta_loha_w2_a = Parameter(start("w2_a", out_channels, rank), name=LOHA_W2_A)
        self.mindpet_delta_loha_w2_b = Parameter(zeros, name=LOHA_W2_B)
        self.rank, self.scale = rank, scale
        self.scaled, self.a_times, self.b_times = ops.Mul(), ops.Mul(), ops.Mul()
        # One for each matrix: over ranks they are cut apart.
        self.w1_a_wide, self.w1_b_wide, self.w2_a_wide, self.w2_b_wide = (ops.ExpandDims() for _ in range(4))
        self.a_matmul, self.b_matmul = ops.MatMul(transpose_b=True), ops.MatMul(transpose_b=True)

    def change(self, x: Tensor) -> Tensor:
        """Compute s x A^T B^T; the factors in float32."""
        w1_a = self.w1_a_wide(self.scaled(self.mindpet_delta_loha_w1_a, self.scale), 2)
        b = self.b_times(w1_a, self.w2_a_wide(self.mindpet_delta_loha_w2_a, 1))
        w1_b = self.w1_b_wide(self.mindpet_delta_loha_w1_b, 1)
        a = self.a_times(w1_b, self.w2_b_wide(self.mindpet_delta_loha_w2_b, 0))
        a = self.cast(self.reshape(a, (self.rank * self.rank, self.in_channels)), self.compute_dtype)
        b = self.cast(self.reshape(b, (self.out_channels, self.rank * self.rank)), self.compute_dtype)
        return self.b_matmul(self.a_matmul(x, a), b)

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`column`: outputs over tp ranks, so B is cut as the base's rows are; `row`: inputs, so A is cut as its columns are."""
        super().set_layout(how, dp, tp)
        outer, inner = (tp if how == "column" else 1), (tp if how == "row" else 1)
        self.scaled.shard(((outer, 1), ()))
        for wide in (self.w1_a_wide, self.w2_a_wide):
            wide.shard(((outer, 1),))
        for wide in (self.w1_b_wide, self.w2_b_wide):
            wide.shard(((1, inner),))
        self.b_times.shard(((outer, 1, 1), (outer, 1, 1)))
        self.a_times.shard(((1, 1, inner), (1, 1, inner)))
        self.a_matmul.shard(((dp, inner), (1, inner)))
        self.b_matmul.shard(((dp, 1), (outer, 1)))


def attach(net: Cell, config: LohaConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Wrap every targeted nn.Dense. Returns the names of all matrices. Raises TargetError."""
    paths = resolve_targets(net, sites, config.target, config.exclude)
    check_patterns(config, paths)

    def make(dense: Cell, path: str) -> Cell:
        rank, scale = config.site(path)
        return LohaDense(dense.in_channels, dense.out_channels, rank, scale, seed, path, **arguments_like(dense))

    return adapt(net, paths, make)


def merge(config: LohaConfig, tensors: Tensors) -> Update:
    """Return the update W <- W + s (W1a W1b) * (W2a W2b), in float32."""

    def update(name: str, value: Array, rows: slice = ALL) -> Array:
        path, _, leaf = name.rpartition(".")
        if leaf != "weight" or f"{path}.{LOHA_W1_A}" not in tensors:
            return value
        w1_a, w1_b, w2_a, w2_b = (tensors[f"{path}.{part}"].astype(np.float32) for part in _TENSORS)
        merged: Array = w1_a[rows] @ w1_b
        merged *= w2_a[rows] @ w2_b
        merged *= np.float32(config.site(path)[1])
        merged += value
        return merged

    return update


_TENSORS = {
    LOHA_W1_A: LayerTensor(axes=2, outputs=0),
    LOHA_W1_B: LayerTensor(axes=2, inputs=1),
    LOHA_W2_A: LayerTensor(axes=2, outputs=0),
    LOHA_W2_B: LayerTensor(axes=2, inputs=1),
}


def low_rank(config: LohaConfig, tensors: Tensors) -> Iterator[tuple[str, LowRankUpdate]]:
    """Return s B A of every layer, of rank R^2. Raises DeltaError: a matrix without its partner, shapes that contradict the settings."""
    for path in layers_with(tensors, _TENSORS):
        rank, scale = config.site(path)
        first = factors_of(tensors, path, LOHA_W1_B, LOHA_W1_A, rank)
        second = factors_of(tensors, path, LOHA_W2_B, LOHA_W2_A, rank)
        b = (first.b[:, :, None] * second.b[:, None, :]).reshape(len(first.b), -1)
        a = (first.a[:, None, :] * second.a[None, :, :]).reshape(rank * rank, -1)
        yield path, LowRankUpdate(b=b, a=a, scale=scale)


def switch(config: LohaConfig, tensors: Tensors, sites: Sites, base: BaseValues) -> AdapterTensors:
    """Return the products of the delta for a multi-adapter graph."""
    return AdapterTensors(products={path: update.scaled() for path, update in low_rank(config, tensors)})


METHOD = Method(
    name="loha",
    config=LohaConfig,
    default_lr=3e-3,
    attach=attach,
    tensors=_TENSORS,
    merge=merge,
    low_rank=low_rank,
    switch=switch,
    peft=("LOHA",),
)
