"""Define the parts that families share. Parameters are created as zeros that take no memory until the base is loaded."""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from petrun.kernels import Gelu, GeluTanh, fused, native
from petrun.models.base import StoredName
from petrun.typing import DType

DTYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}


class Embedding(nn.Cell):
    """weight[ids].

    Inputs: ids (B, T) int32. Returns: (B, T, H) in the dtype it was built with, even where weight has another dtype by then.
    Owns: weight (V, H).
    """

    def __init__(self, rows: int, width: int, dtype: DType) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = Parameter(initializer("zeros", (rows, width), dtype), name="weight")
        self.width = width
        self.gather = ops.Gather()
        self.rows = ops.StridedSlice()

    def slice(self, start: int, rows: int) -> Tensor:
        """Return weight[start : start + rows], (rows, H)."""
        return ops.cast(self.rows(self.weight, (start, 0), (start + rows, self.width), (1, 1)), self.dtype)

    def construct(self, ids: Tensor) -> Tensor:
        return ops.cast(self.gather(self.weight, ids, 0), self.dtype)

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`vocabulary`: rows of the table over tp ranks; else the full table on each."""
        self.gather.shard(((tp if how == "vocabulary" else 1, 1), (dp, 1)))
        self.rows.shard(((1, 1),))


class Scale(nn.Cell):
    """x * factor in x's dtype, the factor rounded to it: (B, T, H) -> (B, T, H)."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = Tensor(factor, ms.float32)
        self.times = ops.Mul()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard by rows of the batch."""
        self.times.shard(((dp, 1, 1), ()))

    def construct(self, x: Tensor) -> Tensor:
        return self.times(x, ops.cast(self.factor, x.dtype))


class Product(nn.Cell):
    """x * y, both (B, T, F)."""

    def __init__(self) -> None:
        super().__init__()
        self.times = ops.Mul()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`wide`: features over tp ranks."""
        self.times.shard(((dp, 1, tp), (dp, 1, tp)))

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return self.times(x, y)


FEW_ROWS = 32
"""Up to so many rows the C++ operator is faster than MindSpore's MatMul on the CPU."""


class Dense(fused.FusedCell, nn.Dense):
    """x W^T + b in the dtype of x: a weight that trains is float32 whatever the layers compute in.

    Inputs: x (..., in). Returns: (..., out), x's dtype. Owns: weight (out, in), bias (out,).
    Few rows, as in generation, are computed by a C++ operator whose numbers do not depend on how many there are.
    """

    splits_tokens = True

    def __init__(self, wide_in: int, wide_out: int, *, has_bias: bool, dtype: DType) -> None:
        super().__init__(wide_in, wide_out, weight_init="zeros", bias_init="zeros", has_bias=has_bias, dtype=dtype)
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.dense_rows, library)
        self.fused_bias = fused.if_built(fused.dense_rows_bias, library)

    def construct(self, x: Tensor) -> Tensor:
        shape = x.shape
        flat, weight = ops.reshape(x, (-1, self.in_channels)), ops.cast(self.weight, x.dtype)
        few = self.is_fused and not self.training and x.dtype == ms.float32 and flat.shape[0] <= FEW_ROWS
        if few and self.has_bias:
            y = self.fused_bias(flat, weight, ops.cast(self.bias, x.dtype))
        elif few:
            y = self.fused(flat, weight)
        else:
            y = self.matmul(flat, weight)
            if self.has_bias:
                y = self.bias_add(y, ops.cast(self.bias, x.dtype))
        return ops.reshape(y, (*shape[:-1], self.out_channels))

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`column`: outputs over tp ranks; `row`: inputs; `scattered`: the same, and rows of the result over all; else the full
        layer on each."""
        outer, inner = (tp if how == "column" else 1), (tp if how in ("row", "scattered") else 1)
        rows = dp * tp if how == "scattered" else dp
        self.is_fused = False
        self.matmul.shard(((dp, inner), (outer, inner)), ((rows, outer),) if how == "scattered" else None)
        if self.has_bias:
            self.bias_add.shard(((rows, outer), (outer,)))


def dense(wide_in: int, wide_out: int, dtype: DType, bias: bool = True) -> Dense:
    """Make a linear layer whose parameters are zeros."""
    return Dense(wide_in, wide_out, has_bias=bias, dtype=dtype)


class Relu(nn.Cell):
    """max(x, 0), any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = ops.ReLU()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`wide`: (B, T, F), features over tp ranks."""
        self.relu.shard(((dp, 1, tp),))

    def construct(self, x: Tensor) -> Tensor:
        return self.relu(x)


class Relu2(nn.Cell):
    """max(x, 0)^2, any shape."""

    def construct(self, x: Tensor) -> Tensor:
        positive = ops.relu(x)
        return positive * positive


class Sigmoid1702(nn.Cell):
    """x * sigmoid(1.702 x), any shape. Source: Hendrycks and Gimpel, arXiv:1606.08415, section 2."""

    def construct(self, x: Tensor) -> Tensor:
        return x * ops.sigmoid(1.702 * x)


class Silu(nn.Cell):
    """x * sigmoid(x), any shape."""

    def construct(self, x: Tensor) -> Tensor:
        return x * ops.sigmoid(x)


class Linear(nn.Cell):
    """x itself, any shape."""

    def construct(self, x: Tensor) -> Tensor:
        return x


ACTIVATIONS: Mapping[str, type[nn.Cell]] = {
    # Names of transformers' ACT2FN. Names that share a formula and differ in implementation have one cell.
    "gelu": Gelu,
    "gelu_python": Gelu,
    "gelu_new": GeluTanh,
    "gelu_fast": GeluTanh,
    "gelu_accurate": GeluTanh,
    "gelu_pytorch_tanh": GeluTanh,
    "gelu_python_tanh": GeluTanh,
    "quick_gelu": Sigmoid1702,
    "relu": Relu,
    "relu2": Relu2,
    "silu": Silu,
    "swish": Silu,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "linear": Linear,
}


def activation(name: str) -> nn.Cell:
    """Make the activation of one of the names in ACTIVATIONS."""
    return ACTIVATIONS[name]()


class FeedForward(nn.Cell):
    """down(act(up(x))), (B, T, H) -> (B, T, H)."""

    def __init__(self, hidden: int, wide: int, act: str, dtype: DType, bias: bool = True) -> None:
        super().__init__()
        self.up = dense(hidden, wide, dtype, bias)
        self.act = activation(act)
        self.down = dense(wide, hidden, dtype, bias)

    def construct(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class SplitGateUp(nn.Cell):
    """Splits one projection that holds gate and up, in that order: (B, T, 2 * F) -> two (B, T, F)."""

    def __init__(self) -> None:
        super().__init__()
        self.halves, self.pick, self.is_sharded = ops.Split(-1, 2), ops.StridedSlice(), False

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """The projection's outputs are sharded in runs, gate first: MindSpore gathers them over the tp ranks, and each takes its features
        of both."""
        self.is_sharded = True
        self.pick.shard(((dp, 1, 1),))

    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        if not self.is_sharded:
            return self.halves(x)
        b, t, f = x.shape
        gate = self.pick(x, (0, 0, 0), (b, t, f // 2), (1, 1, 1))
        return gate, self.pick(x, (0, 0, f // 2), (b, t, f), (1, 1, 1))


def named(net: nn.Cell) -> nn.Cell:
    """Name every parameter by its path (a shared one by the first path), as MindSpore renames parameters while cells are nested."""
    for path, parameter in net.parameters_and_names():
        parameter.name = path
    return net


def tied_head(tied: bool) -> dict[str, str]:
    """Return StoredName.also of a token embedding: the head's names where it shares the matrix."""
    return {"lm_head.weight": "head.weight"} if tied else {}


def cell_paths(names: Mapping[str, StoredName]) -> dict[str, str]:
    """Return, for each cell that owns a weight, its path -> its path in Hugging Face's naming."""
    return {
        ours.removesuffix(".weight"): stored.name.removesuffix(".weight")
        for ours, stored in names.items()
        if ours.endswith(".weight")
    }
