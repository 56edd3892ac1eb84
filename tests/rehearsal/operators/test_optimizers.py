"""Adam in place: against the equations in float64, and against petrun's own optimizer in the CPU's kernel."""

import numpy as np

from petrun.rehearsal.interpreter import compute
from petrun.rehearsal.operators.types import Variable
from tests.rehearsal.operators.nodes import node

BETA1, BETA2, EPS, RATE = 0.9, 0.999, 1e-8, 0.01


def drawn():
    random = np.random.default_rng(3)
    return [random.normal(size=(3, 4)).astype(np.float32) for _ in range(4)]


def expected(weight, m, v, grad, step):
    """Kingma and Ba, arXiv:1412.6980, section 2, the reordered form."""
    m = BETA1 * m + (1 - BETA1) * grad
    v = BETA2 * v + (1 - BETA2) * grad * grad
    rate = RATE * np.sqrt(1 - BETA2**step) / (1 - BETA1**step)
    return weight - rate * m / (np.sqrt(v) + EPS), m, v


def settings(grad, step):
    numbers = (BETA1**step, BETA2**step, RATE, BETA1, BETA2, EPS)
    return *(np.float32(number) for number in numbers), grad


def test_adam_changes_weight_and_moments():
    weight, m, v, grad = drawn()
    v = np.abs(v)
    held = [Variable(value) for value in (weight, m, v)]
    found = compute(node("Adam", (3, 4), (3, 4), (3, 4)), (*held, *settings(grad, 2)))
    assert found == tuple(held)
    wide = (value.astype(np.float64) for value in (weight, m, v, grad))
    for variable, value in zip(held, expected(*wide, 2), strict=True):
        assert variable.value.dtype == np.float64
        np.testing.assert_allclose(variable.value, value, rtol=3e-5, atol=1e-6)


def test_without_the_weight_it_returns_the_step():
    weight, m, v, grad = drawn()
    v = np.abs(v)
    held = [Variable(value) for value in (m, v)]
    step = compute(node("AdamNoUpdateParam", (3, 4)), (*held, *settings(grad, 5)))
    new, new_m, new_v = expected(weight.astype(np.float64), m, v, grad, 5)
    np.testing.assert_allclose(weight + step, new, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(held[0].value, new_m, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(held[1].value, new_v, rtol=1e-5, atol=1e-6)


def test_a_value_is_stored_in_the_parameters_type():
    variable = Variable(np.zeros((2,), np.float16))
    compute(node("Assign", (2,), dtype="float16"), (variable, np.float32([1.0, 1e-9])))
    assert variable.value.dtype == np.float16 and variable.value.tolist() == [1.0, 0.0]
    compute(node("AssignAdd", (2,), dtype="float16"), (variable, np.float32([0.5, 0.5])))
    assert variable.value.tolist() == [1.5, 0.5]
