"""Elementwise operators whose formula is written here: against MindSpore's own operators on the CPU, or slopes in float64."""

import math

import numpy as np
import pytest
from mindspore import Tensor, ops

from petrun import kernels
from petrun.errors import SetupError
from petrun.rehearsal.interpreter import require_known
from petrun.rehearsal.operators.types import to_bfloat16
from petrun.rehearsal.step_graph import StepGraph
from tests.rehearsal.operators.nodes import in_float64, node, result, slopes

X = np.linspace(-4, 4, 12).reshape(3, 4)
DY = np.random.default_rng(4).normal(size=(3, 4))


@pytest.mark.parametrize(
    ("operator", "own"),
    [("Sigmoid", ops.Sigmoid), ("Tanh", kernels.Tanh), ("GeLU", kernels.GeluTanh), ("Erf", ops.Erf)],
)
def test_forward_is_that_of_the_cpu(pynative, operator, own):
    """petrun's own kernel, where MindSpore's is only good to 1e-5."""
    x = X.astype(np.float32)
    np.testing.assert_allclose(result(operator, x.shape, x), own()(Tensor(x)).asnumpy(), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("operator", "forward", "inputs"),
    [
        ("SigmoidGrad", "Sigmoid", lambda x, y: (y, DY)),
        ("TanhGrad", "Tanh", lambda x, y: (y, DY)),
        ("GeLUGrad", "GeLU", lambda x, y: (DY, x, y)),
        ("SiLUGrad", "SiLU", lambda x, y: (DY, x)),
        ("ReluGrad", "ReLU", lambda x, y: (DY, y)),
    ],
)
def test_gradients(operator, forward, inputs):
    y = in_float64(forward, [X.shape], X)
    found = in_float64(operator, [X.shape], *inputs(X, y))
    np.testing.assert_allclose(found, slopes(lambda v: in_float64(forward, [X.shape], v), X, DY), atol=1e-8)


@pytest.mark.parametrize(("approximate", "own"), [(0, kernels.Gelu), (1, kernels.GeluTanh)])
def test_both_forms_of_gelu(pynative, approximate, own):
    x = X.astype(np.float32)
    expected = own()(Tensor(x)).asnumpy()
    np.testing.assert_allclose(result("GeluExt", x.shape, x, approximate), expected, rtol=2e-6, atol=1e-6)
    found = in_float64("GeluGradExt", [X.shape], DY, X, approximate)
    forward = slopes(lambda v: in_float64("GeluExt", [X.shape], v, approximate), X, DY)
    np.testing.assert_allclose(found, forward, atol=1e-8)


def test_a_form_of_gelu_that_is_not_known_is_named():
    with pytest.raises(SetupError, match=r"layers\.0: a GeluExt with approximate=2 is not computed"):
        result("GeluExt", X.shape, X, 2)


def test_silu():
    expected = [[v / (1 + math.exp(-v)) for v in row] for row in X.tolist()]
    np.testing.assert_allclose(in_float64("SiLU", [X.shape], X), expected, rtol=1e-12)


def test_int32_wraps_as_on_a_card():
    x = np.int32([2**31 - 1, -7, 12345])
    assert result("Mul", (3,), x, np.int32(0x21F0AAAD), dtype="int32").tolist() == [
        (int(v) * 0x21F0AAAD + 2**31) % 2**32 - 2**31 for v in x
    ]
    assert result("RightShift", (3,), x, np.int32(15), dtype="int32").tolist() == [65535, -1, 0]
    assert result("FloorDiv", (3,), x, np.int32(2), dtype="int32").tolist() == [2**30 - 1, -4, 6172]


def test_bfloat16_is_rounded_to_even():
    x = np.float32([1.0, 1.00390625, 1.01171875, -2.3, np.inf, np.nan, 3.4e38])
    found = to_bfloat16(x)
    assert found[:3].tolist() == [1.0, 1.0, 1.015625] and found[3] == np.float32(-2.296875)
    assert np.isinf(found[4]) and np.isnan(found[5]) and np.isinf(found[6])
    assert result("Cast", (1,), np.float32([1.003]), 45, dtype="bfloat16").tolist() == [1.0]


def test_float32_is_not_rounded_and_half_precision_is():
    """1 + 1e-8 is 1 in float32: a long sum of the ranks' would differ from one rank's by its order alone."""
    one, little = np.float32([1.0]), np.float32([1e-8])
    assert result("Sub", (1,), result("Add", (1,), one, little), one).tolist() == pytest.approx([1e-8], rel=1e-6)
    assert result("Add", (1,), one, little, dtype="float16").tolist() == [1.0]


def test_unknown_operators_are_named_with_their_layers():
    nodes = tuple(node(operator, (1,)) for operator in ("Frobnicate", "Add", "AllReduce", "Load", "Twiddle", "Twiddle"))
    graph = StepGraph(inputs=(), parameters={}, held={}, constants={}, nodes=nodes, output="n")
    with pytest.raises(
        SetupError, match=r"layers\.0: the operator Frobnicate cannot be computed(.|\n)*Twiddle"
    ) as raised:
        require_known(graph)
    assert raised.value.message.count("cannot be computed") == 2


def test_a_shape_that_the_compiler_does_not_say_is_named():
    with pytest.raises(SetupError, match=r"layers\.0: Add gives \[\(2,\)\], and the graph says \[\(3,\)\]"):
        result("Add", (3,), np.zeros(2), np.zeros(2))
