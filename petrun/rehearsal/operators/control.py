"""Operators that order, name and store values. They take variables as they are, and their results are not rounded."""

from __future__ import annotations

import numpy as np

from petrun.rehearsal.operators.types import Compute, Value, Variable, computed, widened
from petrun.rehearsal.step_graph import MONAD, Node, TensorType


def load(node: Node, variable: Value, *order: Value) -> Value:
    """The value of a parameter at this point: Load, and TensorMove, which copies it. What is stored later leaves it as it is."""
    return variable.value if isinstance(variable, Variable) else variable


def depend(node: Node, value: Value, *after: Value) -> Value:
    """The value, behind what the others name."""
    return value


def make_tuple(node: Node, *items: Value) -> Value:
    return items


def tuple_get_item(node: Node, items: Value, index: int) -> Value:
    return items[index]


def update_state(node: Node, *after: Value) -> Value:
    return MONAD


def assign(node: Node, variable: Variable, value: Value, *order: Value) -> Value:
    """Store a value in a parameter, in the parameter's type."""
    return store(variable, node.results[0], widened(value))


def assign_add(node: Node, variable: Variable, value: Value, *order: Value) -> Value:
    """Add a value to a parameter."""
    return store(variable, node.results[0], widened(variable) + widened(value))


def store(variable: Variable, kind: TensorType, value: Value) -> Variable:
    """Replace a parameter's value."""
    variable.value = computed(np.broadcast_to(value, variable.value.shape), kind)
    return variable


CONTROL: dict[str, Compute] = {
    "Load": load,
    "TensorMove": load,
    "Depend": depend,
    "MakeTuple": make_tuple,
    "TupleGetItem": tuple_get_item,
    "UpdateState": update_state,
    "Assign": assign,
    "AssignAdd": assign_add,
}
