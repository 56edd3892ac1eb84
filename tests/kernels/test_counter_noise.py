"""Numbers of dropout's hash: against the formula in numpy, their statistics, and what they depend on."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from petrun import kernels
from petrun.kernels import CounterNormal, CounterUniform
from tests.kernels.counter_hash import reference_normal, reference_uniform


class Drawn(nn.Cell):
    """What a cell draws for a shape, beside a tensor that MindSpore may compile it for."""

    def __init__(self, cell, shape):
        super().__init__()
        self.cell, self.shape = cell, shape

    def construct(self, x):
        return self.cell(self.shape) + x * 0.0


def draw(cell, shape, step=0, first=0, rows=None):
    kernels.step_counter().set_data(Tensor(step, ms.int32))
    kernels.batch_offset().set_data(Tensor([first, rows or shape[0]], ms.int32))
    return Drawn(cell, shape)(Tensor(0.0, ms.float32)).asnumpy()


@pytest.fixture(autouse=True)
def _restored():
    yield
    kernels.step_counter().set_data(Tensor(0, ms.int32))
    kernels.batch_offset().set_data(Tensor([0, 1], ms.int32))


@pytest.mark.parametrize("shape", [(3, 4, 5, 5), (5000,)])
def test_numbers_are_those_of_the_formula(mode, shape):
    uniform, normal = draw(CounterUniform(7, "a"), shape, 3), draw(CounterNormal(7, "a"), shape, 3)
    assert uniform.dtype == normal.dtype == np.float32
    np.testing.assert_allclose(uniform, reference_uniform(7, "a", 3, shape), atol=1e-7)
    np.testing.assert_allclose(normal, reference_normal(7, "a", 3, shape), atol=1e-5)
    assert uniform.min() >= 0.0 and uniform.max() < 1.0


def test_rows_of_a_share_are_those_of_the_whole_batch(pynative):
    """Given rows 2 and 3 of a batch of 5 on a rank, they get the numbers that one process draws for them.

    But for the last bits of logarithm and cosine, which MindSpore computes in vectors, and the rest of a tensor one by one.
    """
    whole = draw(CounterNormal(1, "b"), (5, 6, 3))
    mine = draw(CounterNormal(1, "b"), (2, 6, 3), first=2, rows=2)
    np.testing.assert_allclose(mine, whole[2:4], rtol=2e-6, atol=1e-6)


def test_steps_sites_and_seeds_are_independent(pynative):
    base = draw(CounterNormal(1, "c"), (2, 10000)).ravel()
    others = [
        draw(CounterNormal(1, "c"), (2, 10000), step=1),
        draw(CounterNormal(1, "d"), (2, 10000)),
        draw(CounterNormal(2, "c"), (2, 10000)),
    ]
    assert abs(base.mean()) < 0.03 and abs(base.std() - 1.0) < 0.02
    assert abs((base**4).mean() - 3.0) < 0.2
    for other in others:
        assert abs(np.corrcoef(base, other.ravel())[0, 1]) < 0.03
