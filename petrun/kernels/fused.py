"""The C++ operators as MindSpore primitives, with their gradients.

Every function returns the operator for a library; primitives are shared by all cells that use them. Inputs are float32
but for targets, masks, steps and keys; numbers such as eps are tensors of one element, because an operator takes tensors
only. What an operator's gradient needs is its inputs, and where a softmax is inside, two numbers a row. Gradients of inputs that may be
frozen are operators of their own, so that a graph that does not ask for them does not compute them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn, ops

from petrun.typing import Cell, Primitive, Tensor

Infer = Callable[..., object]


class FusedCell(nn.Cell):
    """A cell that has a C++ operator and primitives with the same result; `is_fused` says which it uses.

    Told to compute in half precision (`to_float`, `amp.auto_mixed_precision`) it uses the primitives: in PyNative mode MindSpore then
    casts the inputs of every operator, and the C++ operators read float32 alone.
    """

    is_fused = False

    def add_flags(self, **flags: object) -> Cell:
        if flags.get("fp16") or flags.get("bf16"):
            self.is_fused = False
        return super().add_flags(**flags)


def if_built(make: Callable[..., Primitive], library: Path | None, *sizes: int) -> Any:
    """The operator that `make` returns, with sizes that it depends on; None without a library: then `is_fused` is False."""
    return None if library is None else make(library, *sizes)


def operator(
    library: Path,
    name: str,
    infer: Infer,
    dtype: Infer | None = None,
    bprop: Infer | None = None,
    width: int = 0,
) -> Primitive:
    """`infer` maps the inputs' shapes to the outputs', and their dtypes likewise unless `dtype` is given.

    MindSpore takes two operators for one where their attributes agree, and then reuses what it inferred for the other:
    whatever `infer` or `bprop` depend on besides the inputs has to be an attribute.
    """
    made = ops.Custom(f"{library}:petrun_{name}", infer, dtype or infer, func_type="aot", bprop=bprop)
    made.add_prim_attr("petrun_width", width)
    made.add_prim_attr("petrun_gradient", bprop is None)
    return made


def _unary(library: Path, name: str) -> Primitive:
    grad = operator(library, f"{name}_grad", lambda x, dy: x)

    def bprop(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        return (grad(x, dout),)

    return operator(library, name, lambda x: x, bprop=bprop)


@lru_cache
def gelu(library: Path) -> Primitive:
    """x -> y"""
    return _unary(library, "gelu")


@lru_cache
def gelu_tanh(library: Path) -> Primitive:
    """x -> y"""
    return _unary(library, "gelu_tanh")


@lru_cache
def tanh(library: Path) -> Primitive:
    """x -> y; the gradient needs y"""
    grad = operator(library, "tanh_grad", lambda y, dy: y)

    def bprop(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        return (grad(out, dout),)

    return operator(library, "tanh", lambda x: x, bprop=bprop)


@lru_cache
def silu_mul(library: Path) -> Primitive:
    """gate, up -> y"""
    grad = operator(library, "silu_mul_grad", lambda gate, up, dy: (gate, up))

    def bprop(gate: Tensor, up: Tensor, out: Tensor, dout: Tensor) -> Tensor:
        return grad(gate, up, dout)

    return operator(library, "silu_mul", lambda gate, up: gate, bprop=bprop)


@lru_cache
def rope(library: Path) -> Primitive:
    """x (B, N, T, D), cos, sin -> y. The tables are constants: their gradients are 0."""
    grad = operator(library, "rope_grad", lambda dy, cos, sin: dy)

    def bprop(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return grad(dout, cos, sin), ops.zeros_like(cos), ops.zeros_like(sin)

    return operator(library, "rope", lambda x, cos, sin: x, bprop=bprop)


@lru_cache
def split_heads(library: Path, width: int) -> Primitive:
    """x (B, T, N * width) -> (B, N, T, width)"""
    return _heads(library, width)[0]


@lru_cache
def merge_heads(library: Path, width: int) -> Primitive:
    """x (B, N, T, width) -> (B, T, N * width)"""
    return _heads(library, width)[1]


@lru_cache
def split_qkv(library: Path, width: int) -> Primitive:
    """x (B, T, 3 * N * width) -> q, k, v (B, N, T, width)"""

    def apart(x: Tensor) -> object:
        part = (x[0], x[2] // (3 * width), x[1], width)
        return part, part, part

    grad = operator(library, "merge_qkv", lambda q, k, v: (q[0], q[2], 3 * q[1] * q[3]), lambda q, k, v: q)

    def bprop(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        return (grad(dout[0], dout[1], dout[2]),)

    return operator(library, "split_qkv", apart, lambda x: (x, x, x), bprop, width)


@lru_cache
def _heads(library: Path, width: int) -> tuple[Primitive, Primitive]:
    """Each is the other's gradient."""

    def apart(x: Tensor) -> object:
        return x[0], x[2] // width, x[1], width

    def together(x: Tensor) -> object:
        return x[0], x[2], x[1] * x[3]

    split_grad = operator(library, "merge_heads", together, lambda dy: dy)
    merge_grad = operator(library, "split_heads", apart, lambda dy: dy, width=width)

    def split_bprop(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return (split_grad(dout),)

    def merge_bprop(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return (merge_grad(dout),)

    split = operator(library, "split_heads", apart, lambda x: x, split_bprop, width)
    return split, operator(library, "merge_heads", together, lambda x: x, merge_bprop, width)


@lru_cache
def row_sum(library: Path) -> Primitive:
    """dy (..., H) -> (H,)"""
    return operator(library, "row_sum", lambda dy: dy[-1:], lambda dy: dy)


@lru_cache
def layer_norm(library: Path) -> Primitive:
    """x, weight, bias, eps -> y"""
    grad = operator(library, "layer_norm_grad", lambda x, weight, dy, eps: x)
    weight_grad = operator(library, "layer_norm_weight_grad", lambda x, dy, eps: x[-1:], lambda x, dy, eps: x)
    bias_grad = row_sum(library)

    def bprop(
        x: Tensor, weight: Tensor, bias: Tensor, eps: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return grad(x, weight, dout, eps), weight_grad(x, dout, eps), bias_grad(dout), ops.zeros_like(eps)

    return operator(library, "layer_norm", lambda x, weight, bias, eps: x, bprop=bprop)


@lru_cache
def add_layer_norm(library: Path) -> Primitive:
    """x, residual, weight, bias, eps -> layer_norm(x + residual), x + residual

    The gradient takes the sum, whose own gradient is not asked for: it is an output only to be kept.
    """
    grad = operator(library, "layer_norm_grad", lambda x, weight, dy, eps: x)
    weight_grad = operator(library, "layer_norm_weight_grad", lambda x, dy, eps: x[-1:], lambda x, dy, eps: x)
    bias_grad = row_sum(library)

    def bprop(
        x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, ...]:
        dx = grad(out[1], weight, dout[0], eps)
        return dx, dx, weight_grad(out[1], dout[0], eps), bias_grad(dout[0]), ops.zeros_like(eps)

    return operator(library, "add_layer_norm", lambda x, residual, weight, bias, eps: (x, x), bprop=bprop)


@lru_cache
def rms_norm(library: Path) -> Primitive:
    """x, weight, eps -> y"""
    grad = operator(library, "rms_norm_grad", lambda x, weight, dy, eps: x)
    weight_grad = operator(library, "rms_norm_weight_grad", lambda x, dy, eps: x[-1:], lambda x, dy, eps: x)

    def bprop(x: Tensor, weight: Tensor, eps: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return grad(x, weight, dout, eps), weight_grad(x, dout, eps), ops.zeros_like(eps)

    return operator(library, "rms_norm", lambda x, weight, eps: x, bprop=bprop)


@lru_cache
def scale_columns(library: Path) -> Primitive:
    """x (..., H), scale (H,) -> x * scale. One operator gives both gradients: x and dy are needed no longer than for the first."""
    grad = operator(library, "scale_columns_grad", lambda x, scale, dy: (x, scale))

    def bprop(x: Tensor, scale: Tensor, out: Tensor, dout: Tensor) -> Tensor:
        return grad(x, scale, dout)

    return operator(library, "scale_columns", lambda x, scale: x, bprop=bprop)


@lru_cache
def dropout(library: Path) -> Primitive:
    """x, step (), offset (2,), key (3,), factor (1,) -> y. The gradient is the operator itself, on dy."""
    grad = operator(library, "dropout", lambda dy, step, offset, key, factor: dy)

    def bprop(
        x: Tensor, step: Tensor, offset: Tensor, key: Tensor, factor: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, ...]:
        dx = grad(dout, step, offset, key, factor)
        return dx, ops.zeros_like(step), ops.zeros_like(offset), ops.zeros_like(key), ops.zeros_like(factor)

    return operator(library, "dropout", lambda x, step, offset, key, factor: x, bprop=bprop)


@lru_cache
def cross_entropy(library: Path) -> Primitive:
    """logits (M, V), targets (M,) int32 -> loss (M,), row scales (M, 2)"""
    grad = operator(library, "cross_entropy_grad", lambda logits, targets, scales, dloss: logits)

    def bprop(logits: Tensor, targets: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        return grad(logits, targets, out[1], dout[0]), ops.zeros_like(targets)

    return operator(
        library,
        "cross_entropy",
        lambda logits, targets: (targets, [*targets, 2]),
        lambda logits, targets: (logits, logits),
        bprop,
    )


@lru_cache
def attention(library: Path) -> Primitive:
    """q (B,N,T,D), k and v (B,Nkv,S,D), mask (B,1,T,S) bool, scale (1,) -> out (B,N,T,D), row scales (B,N,T,2)"""
    grad = operator(library, "attention_grad", lambda q, k, v, mask, scale, scales, dout: (q, k, v))

    def bprop(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, ...]:
        dq, dk, dv = grad(q, k, v, mask, scale, out[1], dout[0])
        return dq, dk, dv, ops.zeros_like(mask), ops.zeros_like(scale)

    return operator(
        library,
        "attention",
        lambda q, k, v, mask, scale: (q, [*q[:3], 2]),
        lambda q, k, v, mask, scale: (q, q),
        bprop,
    )


@lru_cache
def attention_dropout(library: Path) -> Primitive:
    """q, k, v, mask, scale, step (), offset (2,), key (3,), factor (1,) -> out, row scales"""
    grad = operator(
        library,
        "attention_dropout_grad",
        lambda q, k, v, mask, scale, step, offset, key, factor, scales, dout: (q, k, v),
    )

    def bprop(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor,
        scale: Tensor,
        step: Tensor,
        offset: Tensor,
        key: Tensor,
        factor: Tensor,
        out: Tensor,
        dout: Tensor,
    ) -> tuple[Tensor, ...]:
        dq, dk, dv = grad(q, k, v, mask, scale, step, offset, key, factor, out[1], dout[0])
        zeros = ops.zeros_like(mask), ops.zeros_like(scale), ops.zeros_like(step), ops.zeros_like(offset)
        return dq, dk, dv, *zeros, ops.zeros_like(key), ops.zeros_like(factor)

    return operator(
        library,
        "attention_dropout",
        lambda q, k, v, mask, scale, step, offset, key, factor: (q, [*q[:3], 2]),
        lambda q, k, v, mask, scale, step, offset, key, factor: (q, q),
        bprop,
    )


@lru_cache
def dense_rows(library: Path) -> Primitive:
    """x (M, K), w (N, K) -> x w^T (M, N), for few rows: a row's numbers do not depend on M"""

    def bprop(x: Tensor, w: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        return ops.MatMul()(dout, w), ops.MatMul(transpose_a=True)(dout, x)

    return operator(library, "dense_rows", lambda x, w: (x[0], w[0]), lambda x, w: x, bprop)


@lru_cache
def dense_rows_bias(library: Path) -> Primitive:
    """x (M, K), w (N, K), bias (N,) -> x w^T + bias (M, N)"""

    def bprop(x: Tensor, w: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return ops.MatMul()(dout, w), ops.MatMul(transpose_a=True)(dout, x), dout.sum(0)

    return operator(library, "dense_rows_bias", lambda x, w, b: (x[0], w[0]), lambda x, w, b: x, bprop)


@lru_cache
def packed_product(library: Path, rows: int, width: int) -> Primitive:
    """x (M, width), codes, table, scales, zeros, sizes (3,), unit (1,) -> x w^T (M, rows); the codes have no gradient"""
    grad = operator(library, "packed_product_grad", lambda dy, *w: (dy[0], width), _first, width=_both(rows, width))

    def bprop(
        x: Tensor,
        codes: Tensor,
        table: Tensor,
        scales: Tensor,
        zeros: Tensor,
        sizes: Tensor,
        unit: Tensor,
        out: Tensor,
        dout: Tensor,
    ) -> tuple[Tensor, ...]:
        dx = grad(dout, codes, table, scales, zeros, sizes, unit)
        frozen = ops.zeros_like(codes), ops.zeros_like(table), ops.zeros_like(scales), ops.zeros_like(zeros)
        return dx, *frozen, ops.zeros_like(sizes), ops.zeros_like(unit)

    return operator(library, "packed_product", lambda x, *w: (x[0], rows), _first, bprop, _both(rows, width))


@lru_cache
def packed_values(library: Path, rows: int, width: int) -> Primitive:
    """any (1,) float32, codes, table, scales, zeros, sizes (3,), unit (1,) -> w (rows, width); no gradient"""
    return operator(library, "packed_values", lambda x, *w: (rows, width), _first, width=_both(rows, width))


@lru_cache
def nested_scales(library: Path) -> Primitive:
    """table (256,), codes (S,) uint8, absmax, offset (1,), block (1,) int32 -> scales (S,); no gradient"""
    return operator(library, "nested_scales", lambda table, codes, *rest: codes, lambda table, *rest: table)


def _first(x: Tensor, *rest: Tensor) -> Tensor:
    return x


def _both(rows: int, width: int) -> int:
    """Return one attribute for two sizes."""
    return rows << 31 | width


@lru_cache
def row_adapters(library: Path) -> Primitive:
    """y (B, T, N), x (B, T, K), a (S, R, K), b (S, N, R), adapter of each row (>= B,) int32 -> y + x a^T b^T; no gradient"""
    return operator(library, "row_adapters", lambda y, x, a, b, rows: y, lambda y, x, a, b, rows: y)


@lru_cache
def write_cache(library: Path) -> Primitive:
    """k, v (P, N, T, D), caches of k and v (B, N, S, D), row of each in the caches (P,), its first column (P,) -> done (1,).

    Writes into the caches themselves: what reads them has to depend on `done`. No gradient.
    """
    return operator(library, "write_cache", lambda k, v, *rest: [1], lambda k, v, *rest: k)


@lru_cache
def likeliest(library: Path) -> Primitive:
    """logits (B, V) -> the likeliest token (B,) int32, whether all logits of the row are finite (B,) bool; no gradient"""
    return operator(library, "likeliest", lambda logits: (logits[:1], logits[:1]), lambda logits: (ms.int32, ms.bool_))
