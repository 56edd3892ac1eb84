"""Operators that compute each element by itself, with numpy's rules of broadcasting, which are MindSpore's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from petrun.errors import SetupError
from petrun.rehearsal.operators.types import Compute, Value
from petrun.rehearsal.step_graph import Node
from petrun.tensors import Array


def of(function: Callable[..., Array]) -> Compute:
    """Make an operator of a function of numpy."""

    def compute(node: Node, *inputs: Value) -> Value:
        return function(*inputs)

    return compute


def cast(node: Node, x: Array, kind: int) -> Value:
    """x in another type; the result's own type says which."""
    return x


def divide(node: Node, x: Array, y: Array) -> Value:
    return np.true_divide(x, y)


def sigmoid(node: Node, x: Array) -> Value:
    return 1.0 / (1.0 + np.exp(-x))


def sigmoid_grad(node: Node, y: Array, dy: Array) -> Value:
    return y * (1.0 - y) * dy


def silu(node: Node, x: Array) -> Value:
    return x / (1.0 + np.exp(-x))


def silu_grad(node: Node, dy: Array, x: Array) -> Value:
    gate = 1.0 / (1.0 + np.exp(-x))
    return dy * gate * (1.0 + x * (1.0 - gate))


def relu(node: Node, x: Array) -> Value:
    return np.maximum(x, 0)


def relu_grad(node: Node, dy: Array, y: Array) -> Value:
    return np.where(y > 0, dy, 0.0)


def tanh_grad(node: Node, y: Array, dy: Array) -> Value:
    return dy * (1.0 - y * y)


_ROOT = math.sqrt(2.0 / math.pi)
_CUBIC = 0.044715


def gelu_tanh(node: Node, x: Array) -> Value:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): MindSpore's GeLU."""
    return 0.5 * x * (1.0 + np.tanh(_ROOT * (x + _CUBIC * x**3)))


def gelu_tanh_grad(node: Node, dy: Array, x: Array, y: Array) -> Value:
    inner = np.tanh(_ROOT * (x + _CUBIC * x**3))
    slope = _ROOT * (1.0 + 3.0 * _CUBIC * x * x)
    return dy * (0.5 * (1.0 + inner) + 0.5 * x * (1.0 - inner * inner) * slope)


def rsqrt(node: Node, x: Array) -> Value:
    return 1.0 / np.sqrt(x)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def erf(node: Node, x: Array) -> Value:
    return _erf(x)


def gelu(node: Node, x: Array, approximate: int) -> Value:
    """x Phi(x), Phi the normal distribution; `approximate` 1: the form with tanh."""
    return gelu_tanh(node, x) if _with_tanh(node, approximate) else x * _normal(x)


def gelu_grad(node: Node, dy: Array, x: Array, approximate: int) -> Value:
    """dy (Phi(x) + x phi(x)), phi the density."""
    if _with_tanh(node, approximate):
        return gelu_tanh_grad(node, dy, x, x)
    return dy * (_normal(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi))


def _with_tanh(node: Node, approximate: int) -> bool:
    """MindSpore 2.10's numbers: 0 none, 1 tanh."""
    if approximate not in (0, 1):
        raise SetupError(f"{node.layer}: a {node.operator} with approximate={approximate} is not computed")
    return approximate == 1


def _normal(x: Array) -> Array:
    # In x's own type, as no graph says another for a result within an operator.
    found: Array = (0.5 * (1.0 + _erf(x / math.sqrt(2.0)))).astype(x.dtype)
    return found


def add_n(node: Node, items: Value) -> Value:
    total = items[0]
    for item in items[1:]:
        total = total + item
    return total


def clamp(node: Node, x: Array, low: Value, high: Value) -> Value:
    low_ = -np.inf if low is None else low
    return np.minimum(np.maximum(x, low_), np.inf if high is None else high)


def floor_divide(node: Node, x: Array, y: Array) -> Value:
    return np.floor_divide(x, y)


def filled_like(value: float) -> Compute:
    def compute(node: Node, x: Array, *dtype: Value) -> Value:
        return np.full(np.shape(x), value)

    return compute


ELEMENTWISE: dict[str, Compute] = {
    "Add": of(np.add),
    "AddN": add_n,
    "BitwiseAnd": of(np.bitwise_and),
    "BitwiseOr": of(np.bitwise_or),
    "BitwiseXor": of(np.bitwise_xor),
    "Cast": cast,
    "ClampScalar": clamp,
    "ClampTensor": clamp,
    "Cos": of(np.cos),
    "Div": divide,
    "Divs": divide,
    "Equal": of(np.equal),
    "Erf": erf,
    "Exp": of(np.exp),
    "FloorDiv": floor_divide,
    "GeLU": gelu_tanh,
    "GeLUGrad": gelu_tanh_grad,
    "GeluExt": gelu,
    "GeluGradExt": gelu_grad,
    "Greater": of(np.greater),
    "GreaterEqual": of(np.greater_equal),
    "GreaterEqualScalar": of(np.greater_equal),
    "GreaterScalar": of(np.greater),
    "IsFinite": of(np.isfinite),
    "IsNan": of(np.isnan),
    "Less": of(np.less),
    "LessEqual": of(np.less_equal),
    "LessScalar": of(np.less),
    "LessEqualScalar": of(np.less_equal),
    "Log": of(np.log),
    "LogicalAnd": of(np.logical_and),
    "LogicalNot": of(np.logical_not),
    "LogicalOr": of(np.logical_or),
    "Maximum": of(np.maximum),
    "Minimum": of(np.minimum),
    "Mul": of(np.multiply),
    "Muls": of(np.multiply),
    "Adds": of(np.add),
    "Subs": of(np.subtract),
    "Neg": of(np.negative),
    "NotEqual": of(np.not_equal),
    "OnesLike": filled_like(1.0),
    "OnesLikeExt": filled_like(1.0),
    "Pow": of(np.power),
    "PowScalarTensor": of(np.power),
    "PowTensorScalar": of(np.power),
    "ReLU": relu,
    "ReluGrad": relu_grad,
    "RealDiv": divide,
    "Reciprocal": of(np.reciprocal),
    "RightShift": of(np.right_shift),
    "RemainderTensorScalar": of(np.remainder),
    "Rsqrt": rsqrt,
    "Select": of(np.where),
    "SiLU": silu,
    "SiLUGrad": silu_grad,
    "Sigmoid": sigmoid,
    "SigmoidGrad": sigmoid_grad,
    "Sin": of(np.sin),
    "Sqrt": of(np.sqrt),
    "Square": of(np.square),
    "Sub": of(np.subtract),
    "Tanh": of(np.tanh),
    "Abs": of(np.abs),
    "TanhGrad": tanh_grad,
    "ZerosLike": filled_like(0.0),
    "ZerosLikeExt": filled_like(0.0),
}
