"""Matrix products and sums along axes."""

from __future__ import annotations

import numpy as np

from petrun.rehearsal.operators.types import Compute, Value, axes
from petrun.rehearsal.step_graph import Node
from petrun.tensors import Array


def mat_mul(node: Node, x: Array, y: Array, transpose_x: bool, transpose_y: bool) -> Value:
    """x y, of matrices or of batches of them."""
    left = np.swapaxes(x, -1, -2) if transpose_x else x
    right = np.swapaxes(y, -1, -2) if transpose_y else y
    return np.matmul(left, right)


def reduce_sum(node: Node, x: Array, axis: Value, keep: bool, *rest: Value) -> Value:
    return np.sum(x, axes(axis, x.ndim), keepdims=bool(keep))


def reduce_mean(node: Node, x: Array, axis: Value, keep: bool, *rest: Value) -> Value:
    return np.mean(x, axes(axis, x.ndim), keepdims=bool(keep))


def reduce_max(node: Node, x: Array, axis: Value, keep: bool) -> Value:
    return np.max(x, axes(axis, x.ndim), keepdims=bool(keep))


def reduce_any(node: Node, x: Array, axis: Value, keep: bool) -> Value:
    return np.any(x, axes(axis, x.ndim), keepdims=bool(keep))


def bias_add(node: Node, x: Array, bias: Array, *layout: Value) -> Value:
    """x + bias along the second axis, which holds the features."""
    return x + bias.reshape((1, -1) + (1,) * (x.ndim - 2))


def bias_add_grad(node: Node, dy: Array, *layout: Value) -> Value:
    """The sum over all axes but the second, which holds the features."""
    return np.sum(dy, tuple(i for i in range(dy.ndim) if i != 1))


PRODUCTS: dict[str, Compute] = {
    "BatchMatMul": mat_mul,
    "BiasAdd": bias_add,
    "BiasAddGrad": bias_add_grad,
    "MatMul": mat_mul,
    "MeanExt": reduce_mean,
    "ReduceAny": reduce_any,
    "ReduceMax": reduce_max,
    "ReduceMean": reduce_mean,
    "ReduceSum": reduce_sum,
    "SumExt": reduce_sum,
}
