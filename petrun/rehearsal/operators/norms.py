"""Normalisations and softmax with their gradients, over the last axis unless an axis is named."""

from __future__ import annotations

import numpy as np

from petrun.errors import SetupError
from petrun.rehearsal.operators.types import Compute, Value
from petrun.rehearsal.step_graph import Node
from petrun.tensors import Array


def rms_norm(node: Node, x: Array, weight: Array, eps: float) -> Value:
    """(x r weight, r), r = 1 / sqrt(mean(x^2) + eps). Source: Zhang and Sennrich, arXiv:1910.07467, eq. (4)."""
    scale = 1.0 / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps)
    return x * scale * weight, scale


def rms_norm_grad(node: Node, dy: Array, x: Array, scale: Array, weight: Array) -> Value:
    """(dx, dweight): dx = r (g - n mean(g n)), with n = x r and g = dy weight; dweight = sum over rows of dy n."""
    normal, grad = x * scale, dy * weight
    dx = scale * (grad - normal * np.mean(grad * normal, -1, keepdims=True))
    return dx, np.sum((dy * normal).reshape(-1, x.shape[-1]), 0)


def layer_norm(node: Node, x: Array, weight: Array, bias: Array, *settings: Value) -> Value:
    """(y, mean, variance). Source: Ba et al., arXiv:1607.06450, eq. (4)."""
    first, _, eps = settings
    _require_last_axis(node, x, int(first))
    mean = np.mean(x, -1, keepdims=True)
    variance = np.mean((x - mean) ** 2, -1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * weight + bias, mean, variance


def layer_norm_grad(
    node: Node, x: Array, dy: Array, variance: Array, mean: Array, weight: Array, *settings: Value
) -> Value:
    """(dx, dweight, dbias). MindSpore 2.10's operator has 1e-12 (1e-5 where it is told none) for the forward pass's eps."""
    _require_last_axis(node, x, int(settings[0]))
    eps = float(str(node.attributes.get("epsilon", settings[2] if len(settings) > 2 else 1e-12)))
    scale = 1.0 / np.sqrt(variance + eps)
    normal, grad = (x - mean) * scale, dy * weight
    dx = scale * (grad - np.mean(grad, -1, keepdims=True) - normal * np.mean(grad * normal, -1, keepdims=True))
    rows = (-1, x.shape[-1])
    return dx, np.sum((dy * normal).reshape(rows), 0), np.sum(dy.reshape(rows), 0)


def _require_last_axis(node: Node, x: Array, axis: int) -> None:
    if axis not in (-1, x.ndim - 1):
        raise SetupError(f"{node.layer}: a {node.operator} from axis {axis} on is not computed")


def softmax(node: Node, x: Array, axis: Value) -> Value:
    place = axis[0] if isinstance(axis, tuple) else axis
    powers = np.exp(x - np.max(x, place, keepdims=True))
    return powers / np.sum(powers, place, keepdims=True)


def softmax_grad(node: Node, dy: Array, y: Array, axis: int) -> Value:
    """dx = y (dy - sum(dy y))."""
    return y * (dy - np.sum(dy * y, axis, keepdims=True))


NORMS: dict[str, Compute] = {
    "LayerNorm": layer_norm,
    "LayerNormGrad": layer_norm_grad,
    "RmsNorm": rms_norm,
    "RmsNormGrad": rms_norm_grad,
    "Softmax": softmax,
    "SoftmaxBackward": softmax_grad,
}
