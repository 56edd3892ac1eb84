"""VeRA: two random matrices that all layers share, and two trained vectors a layer.

    y = act(x W^T + b + (((dropout(x) A[:, :in]^T) * d) B[:out]^T) * l),   A (R, widest in), B (widest out, R)

Source: Kopiczko et al., "VeRA: Vector-based Random Matrix Adaptation", arXiv 2310.11454, equation 2; names, initial values and the slices
as in peft 0.21, tuners/vera. The vectors multiply in float32, as those of (IA)^3 do. A and B are drawn from the run's seed and saved with
the delta, as peft's save_projection does, because no two libraries draw the same numbers. They are parameters of the first adapted layer,
and the others hold the same objects.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from pydantic import Field

from petrun.delta.dense import AddedDense, TargetConfig, adapt, arguments_like
from petrun.delta.forms import AdapterTensors, BaseValues, LayerTensor, LowRankUpdate, Tensors, layers_with
from petrun.delta.method import ALL, OF_THE_RUN, Method, Update
from petrun.delta.parts import draw_uniform
from petrun.errors import DeltaError
from petrun.graph.sites import Sites
from petrun.graph.surgery import cells, resolve_targets
from petrun.kernels import Dropout, ScaleColumns
from petrun.tensors import Array
from petrun.typing import Cell

VERA_A = "mindpet_delta_vera_a"
VERA_B = "mindpet_delta_vera_b"
VERA_LAMBDA_B = "mindpet_delta_vera_lambda_b"
VERA_LAMBDA_D = "mindpet_delta_vera_lambda_d"


class VeraConfig(TargetConfig):
    """Settings of VeRA."""

    rank: int = Field(256, ge=1, description="R, rows of A, which is not trained: a layer trains R + out numbers")
    dropout: Annotated[float, OF_THE_RUN] = Field(0.0, ge=0.0, lt=1.0, description="on the input of A, while training")
    d_initial: Annotated[float, OF_THE_RUN] = Field(0.1, description="first value of d; l begins at 0")


class VeraDense(AddedDense):
    """A linear layer with a product of shared random matrices beside it, scaled by trained vectors.

    Inputs: x (..., in_channels). Returns (..., out_channels) in the dtype of x.
    Owns: mindpet_delta_vera_lambda_d (R,), d_initial, and _lambda_b (out_channels,), 0 at first; shares mindpet_delta_vera_a (R, widest in)
    and _b (widest out, R), not trained. All float32.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        a: Parameter,
        b: Parameter,
        d_initial: float,
        dropout: Dropout,
        **base: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, **base)
        rank = a.shape[0]
        self.mindpet_delta_vera_a, self.mindpet_delta_vera_b = a, b
        self.mindpet_delta_vera_lambda_d = Parameter(Tensor(np.full(rank, d_initial, np.float32)), name=VERA_LAMBDA_D)
        self.mindpet_delta_vera_lambda_b = Parameter(Tensor(np.zeros(out_channels, np.float32)), name=VERA_LAMBDA_B)
        self.vera_dropout = dropout
        # A product that broadcasts keeps tables of 16 bytes a value on the CPU, for as long as the graph lives.
        self.scale_d, self.scale_b = ScaleColumns(), ScaleColumns()
        self.a_matmul, self.b_matmul = ops.MatMul(transpose_b=True), ops.MatMul(transpose_b=True)

    def change(self, x: Tensor) -> Tensor:
        """Compute (((x A^T) * d) B^T) * l."""
        kind = self.compute_dtype
        a, b = self.mindpet_delta_vera_a[:, : self.in_channels], self.mindpet_delta_vera_b[: self.out_channels]
        z = self.a_matmul(self.cast(self.vera_dropout(x), kind), self.cast(a, kind))
        z = self.scale_d(self.cast(z, ms.float32), self.mindpet_delta_vera_lambda_d)
        y = self.b_matmul(self.cast(z, kind), self.cast(b, kind))
        return self.cast(self.scale_b(self.cast(y, ms.float32), self.mindpet_delta_vera_lambda_b), kind)


def projection(name: str, shape: tuple[int, int], seed: int) -> Parameter:
    """Draw a shared matrix: uniform in +-sqrt(6 / columns), He's initial values."""
    values = draw_uniform(seed, name, shape, math.sqrt(6.0 / shape[1]))
    return Parameter(Tensor(values), name=name, requires_grad=False)


def attach(net: Cell, config: VeraConfig, sites: Sites, seed: int) -> tuple[str, ...]:
    """Wrap every targeted nn.Dense. Returns the names of A, B and all vectors. Raises TargetError."""
    paths = resolve_targets(net, sites, config.target, config.exclude)
    table = cells(net)
    a = projection(VERA_A, (config.rank, max(table[path].in_channels for path in paths)), seed)
    b = projection(VERA_B, (max(table[path].out_channels for path in paths), config.rank), seed)

    def make(dense: Cell, path: str) -> Cell:
        drop = Dropout(float(config.dropout), seed, path)
        wide_in, wide_out = dense.in_channels, dense.out_channels
        return VeraDense(wide_in, wide_out, a, b, config.d_initial, drop, **arguments_like(dense))

    return adapt(net, paths, make)


def shared(tensors: Tensors, leaf: str) -> Array:
    """Return A or B. Raises DeltaError where the delta does not hold it once."""
    names = [name for name in tensors if name.rpartition(".")[2] == leaf]
    if len(names) != 1:
        raise DeltaError(f"holds {len(names)} tensors {leaf}, and all layers share one")
    return tensors[names[0]].astype(np.float32)


def merge(config: VeraConfig, tensors: Tensors) -> Update:
    """Return the update W <- W + diag(l) B[:out] diag(d) A[:, :in], in float32."""
    a, b = shared(tensors, VERA_A), shared(tensors, VERA_B)

    def update(name: str, value: Array, rows: slice = ALL) -> Array:
        path, _, leaf = name.rpartition(".")
        if leaf != "weight" or f"{path}.{VERA_LAMBDA_B}" not in tensors:
            return value
        outer, inner = (tensors[f"{path}.{part}"].astype(np.float32) for part in (VERA_LAMBDA_B, VERA_LAMBDA_D))
        if a.shape[1] < value.shape[1] or len(b) < len(outer):
            raise DeltaError(
                f"{path}: its matrices are of {a.shape[1]} inputs and {len(b)} outputs, fewer than the layer's"
            )
        left = (outer[:, None] * b[: len(outer)])[rows] * inner
        merged: Array = left @ a[:, : value.shape[1]]
        merged += value
        return merged

    return update


def why_no_sum(config: VeraConfig) -> str:
    """Return why its deltas do not add up."""
    return "of vectors for random matrices of its own: another delta's vectors are for others"


def switch(config: VeraConfig, tensors: Tensors, sites: Sites, base: BaseValues) -> AdapterTensors:
    """Return the products, diag(l) B[:out] times diag(d) A[:, :in], for a multi-adapter graph."""
    a, b = shared(tensors, VERA_A), shared(tensors, VERA_B)
    found = AdapterTensors()
    for path in layers_with(tensors, _VECTORS):
        outer, inner = tensors[f"{path}.{VERA_LAMBDA_B}"], tensors[f"{path}.{VERA_LAMBDA_D}"]
        weight = base(f"{path}.weight")
        # The caller refuses a layer that is not there.
        width = a.shape[1] if weight is None else weight.shape[1]
        found.products[path] = LowRankUpdate(
            b=outer[:, None] * b[: len(outer)], a=np.ascontiguousarray(inner[:, None] * a[:, :width])
        )
    return found


_VECTORS = {VERA_LAMBDA_B: LayerTensor(axes=1, outputs=0), VERA_LAMBDA_D: LayerTensor(axes=1)}

METHOD = Method(
    name="vera",
    config=VeraConfig,
    default_lr=1e-2,
    attach=attach,
    tensors={**_VECTORS, VERA_A: LayerTensor(axes=2), VERA_B: LayerTensor(axes=2)},
    merge=merge,
    why_no_sum=why_no_sum,
    switch=switch,
    peft=("VERA",),
    fixed=(VERA_A, VERA_B),
    why_not_split="has two matrices that the layers of all ranks share",
)
