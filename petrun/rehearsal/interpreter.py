"""Execute the graph of one rank node by node, and hand every collective to the caller."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from petrun.errors import SetupError
from petrun.rehearsal.graphs import COLLECTIVES
from petrun.rehearsal.operators import IN_PLACE, PURE
from petrun.rehearsal.operators.types import Value, Variable, computed, widened
from petrun.rehearsal.step_graph import NO_LAYER, Node, StepGraph
from petrun.tensors import Array


@dataclass(frozen=True)
class Exchange:
    """Holds one collective that a rank has come to, and the value that it brings."""

    node: Node
    value: Array


def run_graph(
    graph: StepGraph, variables: Mapping[str, Variable], inputs: Sequence[Value]
) -> Generator[Exchange, Array, Value]:
    """Execute a step: yield each collective, take its result, and return what the step returns.

    `variables`: the rank's parameters by name, which the step changes. Raises SetupError for an operator that is not known, and where a
    result has not the shape that the compiler says.
    """
    require_known(graph)
    last = _last_uses(graph)
    values: dict[str, Value] = dict(graph.constants)
    values.update(zip(graph.inputs, inputs, strict=True))
    values.update({name: variables[own] for name, own in graph.parameters.items()})
    for i, node in enumerate(graph.nodes):
        taken = [values[name] for name in node.inputs]
        if node.operator in COLLECTIVES:
            value = yield Exchange(node, _first_array(node, taken))
            values[node.name] = _checked(node, value)
        else:
            values[node.name] = compute(node, taken)
        for name in last.get(i, ()):
            del values[name]
    return _plain(values[graph.output])


def require_known(graph: StepGraph) -> None:
    """Raise SetupError with every operator of the graph that is not known, each with the first layer that it comes from."""
    unknown: dict[str, Node] = {}
    for node in graph.nodes:
        if node.operator not in PURE and node.operator not in IN_PLACE and node.operator not in COLLECTIVES:
            unknown.setdefault(node.operator, node)
    if unknown:
        made = {node.name: node for node in graph.nodes}
        raise SetupError(
            "\n".join(
                f"{_nearest_layer(node, made)}: the operator {name} cannot be computed here ({node.scope})"
                for name, node in unknown.items()
            ),
            hint="The rehearsal without --compute compiles it. Report the command, so that it is added.",
        )


def _nearest_layer(node: Node, made: Mapping[str, Node]) -> str:
    """Return the layer of a node or, as MindSpore does not say where functional operators come from, of the nearest before it that has
    one."""
    waiting, seen = deque([node]), {node.name}
    while waiting:
        found = waiting.popleft()
        if found.layer != NO_LAYER:
            return found.layer if found is node else f"after {found.layer}"
        before = [made[name] for name in found.inputs if name in made and name not in seen]
        seen.update(near.name for near in before)
        waiting.extend(before)
    return node.layer


def compute(node: Node, inputs: Sequence[Value]) -> Value:
    """Return the result of one operator. Raises SetupError."""
    if node.operator in IN_PLACE:
        return IN_PLACE[node.operator](node, *inputs)
    with np.errstate(all="ignore"):
        found = PURE[node.operator](node, *map(widened, inputs))
    return _checked(node, found)


def _checked(node: Node, found: Value) -> Value:
    """Return results in the types that the compiler says. Raises SetupError where a shape is another."""
    several = isinstance(found, tuple)
    arrays = [np.asarray(item) for item in found] if several else [np.asarray(found)]
    shapes = [array.shape for array in arrays]
    if shapes != [kind.shape for kind in node.results]:
        raise SetupError(
            f"{node.layer}: {node.operator} gives {shapes}, and the graph says {[kind.shape for kind in node.results]} ({node.scope})"
        )
    with np.errstate(all="ignore"):
        typed = [computed(array, kind) for array, kind in zip(arrays, node.results, strict=True)]
    return tuple(typed) if several else typed[0]


def _first_array(node: Node, inputs: Sequence[Value]) -> Array:
    """Return what a collective sends; what it is given besides orders it."""
    value = inputs[0].value if isinstance(inputs[0], Variable) else inputs[0]
    return np.asarray(value)


def _plain(value: Value) -> Value:
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return value.value if isinstance(value, Variable) else value


def _last_uses(graph: StepGraph) -> dict[int, list[str]]:
    """Return position of a node -> the values that no later node needs."""
    used: dict[str, int] = {}
    for i, node in enumerate(graph.nodes):
        used[node.name] = i
        for name in node.inputs:
            used[name] = i
    kept = {graph.output, *graph.constants, *graph.parameters, *graph.inputs}
    found: dict[int, list[str]] = {}
    for name, i in used.items():
        if name not in kept:
            found.setdefault(i, []).append(name)
    return found
