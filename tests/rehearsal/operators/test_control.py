"""Operators that read and store a parameter: what was read before a store stays what it was."""

import numpy as np
import pytest

from petrun.rehearsal.interpreter import compute
from petrun.rehearsal.operators.types import Variable
from petrun.rehearsal.step_graph import MONAD
from tests.rehearsal.operators.nodes import node


@pytest.mark.parametrize(("operator", "order"), [("Load", (MONAD,)), ("TensorMove", ())], ids=["Load", "TensorMove"])
def test_a_value_that_was_read_is_not_changed_by_a_store(operator, order):
    weight = Variable(np.float32([1, 2]))
    before = compute(node(operator, (2,)), [weight, *order])
    assert compute(node("Assign", (2,)), [weight, np.float32([3, 4]), MONAD]) is weight
    assert before.tolist() == [1, 2] and weight.value.tolist() == [3, 4]
    # Of a value that is no parameter it is the value.
    assert compute(node(operator, (2,)), [before, *order]).tolist() == [1, 2]


def test_a_store_rounds_to_the_parameters_type():
    weight = Variable(np.float32([1, 2]))
    compute(node("AssignAdd", (2,), dtype="float16"), [weight, np.float32([1 / 3, 2048.3]), MONAD])
    assert weight.value.dtype == np.float16 and weight.value.tolist() == [np.float16(1 + 1 / 3), 2050.0]
