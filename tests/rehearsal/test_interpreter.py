"""Operators that are not known are named with the layer that they come from, or stand behind."""

from dataclasses import replace

import pytest

from petrun.errors import SetupError
from petrun.rehearsal.interpreter import require_known
from petrun.rehearsal.step_graph import StepGraph
from tests.rehearsal.operators.nodes import node


def graph(*nodes):
    return StepGraph(inputs=(), parameters={}, held={}, constants={}, nodes=nodes, output=nodes[-1].name)


def test_an_operator_without_a_cell_is_named_by_the_layer_before_it():
    """Of what mint.nn.functional computes MindSpore names no cell."""
    product = node("MatMul", (1,))
    reshaped = replace(node("Reshape", (1,)), name="reshaped", inputs=("n", "shape"), scope="Default/Reshape-op0")
    unknown = replace(node("Twiddle", (1,)), name="twiddled", inputs=("reshaped",), scope="Default/Twiddle-op0")
    with pytest.raises(
        SetupError, match=r"after layers\.0: the operator Twiddle cannot be computed here \(Default/Twi"
    ):
        require_known(graph(product, reshaped, unknown))
    with pytest.raises(SetupError, match=r"the step: the operator Twiddle cannot be computed here"):
        require_known(graph(unknown))
    require_known(graph(product, reshaped))
