"""Nodes of graphs without a graph, and slopes by central differences in float64."""

import numpy as np

from petrun.rehearsal.interpreter import compute
from petrun.rehearsal.operators import PURE
from petrun.rehearsal.step_graph import Node, TensorType


def node(operator, *shapes, dtype="float32", **attributes):
    """A node that returns tensors of these shapes."""
    return Node(
        name="n",
        operator=operator,
        inputs=(),
        attributes=attributes,
        scope="Default/net-Net/layers-CellList/0-Layer/Op-op0",
        results=tuple(TensorType(dtype, tuple(shape)) for shape in shapes),
    )


def result(operator, shape, *inputs, dtype="float32", **attributes):
    """The result of an operator that returns one tensor."""
    return compute(node(operator, shape, dtype=dtype, **attributes), inputs)


def in_float64(operator, shapes, *inputs, **attributes):
    """The results of an operator in float64, as it is never rounded to a type."""
    return PURE[operator](node(operator, *shapes, dtype="float64", **attributes), *inputs)


def slopes(function, x, dy, step=1e-6):
    """d sum(function(x) * dy) / dx by central differences."""
    found = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        found[place] = np.sum((function(up) - function(down)) * dy) / (2 * step)
    return found
