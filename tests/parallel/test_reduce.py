"""Shares summed within the step: the arithmetic, with the other ranks' share put in for the collective."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from petrun.parallel import reduce
from petrun.parallel.reduce import SumOverRanks, _buckets
from petrun.train.loss import SupervisedLoss
from petrun.train.step import TrainStep
from tests.train.test_step import COUNT, WHOLE, X, Y, build, run


class Others(nn.Cell):
    """Stands for AllReduce where all ranks hold the same: as many times its input."""

    def __init__(self, ranks):
        super().__init__()
        self.ranks = ranks

    def construct(self, x):
        return x * self.ranks


def reducer(parameters, ranks):
    found = SumOverRanks(parameters)
    found.sum = Others(float(ranks))
    return found


def test_buckets(monkeypatch):
    monkeypatch.setattr(reduce, "_BUCKET", 10)
    assert _buckets((1, 4, 5, 1, 30, 2, 3)) == ((0, 3), (3, 4), (4, 5), (5, 7))
    assert _buckets((1, 30)) == ((0, 1), (1, 2)) and _buckets((1, 2)) == ((0, 2),)


def test_every_value_keeps_its_place(monkeypatch, graph_mode):
    monkeypatch.setattr(reduce, "_BUCKET", 7)
    rng = np.random.default_rng(0)
    values = [rng.normal(size=shape).astype(np.float32) for shape in ((2, 3), (4,), (3, 5), (1, 1))]
    cell = reducer([Parameter(Tensor(value), name=f"p{i}") for i, value in enumerate(values)], 3)
    loss, grads = cell(Tensor(2.0, ms.float32), tuple(Tensor(value) for value in values))
    assert float(loss.asnumpy()) == 6.0 and loss.shape == ()
    for found, value in zip(grads, values, strict=True):
        np.testing.assert_array_equal(found.asnumpy(), value * np.float32(3))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_equal_shares_are_the_whole(accumulate, graph_mode):
    """Two ranks with the same rows: the loss, the norm before clipping and the update are those of twice the gradient."""
    one, step_one = build(accumulate=accumulate, clip=0.01)
    two, plain = build(accumulate=accumulate, clip=0.01)
    parameters = two.trainable_params()
    step_two = TrainStep(
        SupervisedLoss(two), plain.optimizer, accumulate=accumulate, clip=0.01, reduce=reducer(parameters, 2)
    )
    parts = WHOLE if accumulate == 1 else [np.array([0, 1]), np.array([2, 3, 4, 5])]
    for _ in range(2):
        np.testing.assert_allclose(run(step_one, parts, COUNT)[:2], run(step_two, parts, 2 * COUNT)[:2], rtol=1e-5)
    for p, q in zip(one.get_parameters(), two.get_parameters(), strict=True):
        np.testing.assert_allclose(p.asnumpy(), q.asnumpy(), atol=1e-6)


def test_what_is_not_finite_anywhere_changes_nothing_here(graph_mode):
    """This rank's rows are fine; what comes back from the others is not."""
    net, plain = build()
    step = TrainStep(SupervisedLoss(net), plain.optimizer, reduce=reducer(net.trainable_params(), np.nan))
    before = [p.asnumpy().copy() for p in net.get_parameters()]
    out = step(True, Tensor(float(COUNT), ms.float32), Tensor(Y), Tensor(X))
    assert not bool(out[3].asnumpy())
    for p, q in zip(net.get_parameters(), before, strict=True):
        np.testing.assert_array_equal(p.asnumpy(), q)
