"""Every kernel is tested in both execution modes and in both implementations."""

import contextlib
import shutil

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun import kernels


@pytest.fixture
def fused():
    """Skips where there is no compiler; anywhere else the C++ operators must be there."""
    if not (shutil.which("g++") or shutil.which("c++")):
        pytest.skip("no C++ compiler")
    assert kernels.status().fused, kernels.status().reason


@pytest.fixture(params=["fused", "primitives"])
def implementation(request):
    """Cells built in the test use this implementation."""
    if request.param == "fused":
        request.getfixturevalue("fused")
    with kernels.primitives_only() if request.param == "primitives" else contextlib.nullcontext():
        yield request.param


class _Weighted(nn.Cell):
    """sum(net(x) * w): its gradients are those of net for the output gradient w."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def construct(self, weights, *inputs):
        return ops.sum(self.net(*inputs) * weights)


def run(net, inputs, weights, wrt, train=False):
    """Output, gradients of the inputs numbered in `wrt`, gradients of the parameters; all numpy."""
    net.set_train(train)
    tensors = [Tensor(a) for a in inputs]
    weighted = _Weighted(net)
    weighted.set_train(train)
    parameters = tuple(net.trainable_params())
    gradient = ms.grad(weighted, tuple(i + 1 for i in wrt), parameters or None)
    found = gradient(Tensor(weights), *tensors)
    by_input, by_parameter = found if parameters else (found, ())
    by_input = by_input if isinstance(by_input, tuple) else (by_input,)
    return net(*tensors).asnumpy(), [g.asnumpy() for g in by_input], [g.asnumpy() for g in by_parameter]


def close(actual, expected, tolerance=3e-6):
    """Largest difference, as a share of the largest value expected."""
    assert actual.shape == expected.shape and actual.dtype == np.float32
    assert np.isfinite(actual).all()
    scale = max(float(np.abs(expected).max()), 1e-3)
    worst = float(np.abs(actual - expected).max()) / scale
    assert worst < tolerance, f"differs by {worst:.2e} of the largest value"


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
