"""Fused updates of an optimizer. They take variables as they are and change them."""

from __future__ import annotations

import numpy as np

from petrun.rehearsal.operators.control import store
from petrun.rehearsal.operators.types import Compute, Value, Variable, widened
from petrun.rehearsal.step_graph import Node
from petrun.tensors import Array


def _moved(node: Node, m: Variable, v: Variable, settings: tuple[Value, ...]) -> Array:
    """Update both moments and return the step of a weight.

    `settings`: beta1^t, beta2^t, rate, beta1, beta2, eps, gradient. Source: Kingma and Ba, arXiv:1412.6980, the reordered form of
    section 2.
    """
    power1, power2, rate, beta1, beta2, eps, grad = (widened(value) for value in settings[:7])
    kinds = node.results[-2:] if len(node.results) > 2 else (node.results[0],) * 2
    store(m, kinds[0], beta1 * m.value + (1 - beta1) * grad)
    store(v, kinds[1], beta2 * v.value + (1 - beta2) * grad * grad)
    step: Array = -rate * np.sqrt(1 - power2) / (1 - power1) * m.value / (np.sqrt(v.value) + eps)
    return step


def adam(node: Node, weight: Variable, m: Variable, v: Variable, *settings: Value) -> Value:
    """Adam without Nesterov's momentum, in place. Returns (weight, m, v)."""
    step = _moved(node, m, v, settings)
    return store(weight, node.results[0], weight.value + step), m, v


def adam_no_update_param(node: Node, m: Variable, v: Variable, *settings: Value) -> Value:
    """Adam's moments in place; returns the step, which is added to the weight elsewhere."""
    return _moved(node, m, v, settings)


OPTIMIZERS: dict[str, Compute] = {
    "Adam": adam,
    "AdamNoUpdateParam": adam_no_update_param,
}
