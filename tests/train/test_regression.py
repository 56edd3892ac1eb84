"""Mean squared error of a net's one output: torch's value and gradients, however rows are accumulated, in both modes."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun.kernels import SquaredError
from petrun.train.adamw import AdamW
from petrun.train.loss import SupervisedLoss
from petrun.train.schedules import Schedule
from petrun.train.step import TrainStep

X = np.array([[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5], [1.0, 1.0], [0.0, -2.0]], np.float32)
Y = np.array([0.3, -100.0, 2.5, np.nan, 1.0], np.float32)
W, B = np.array([[0.4, -0.6]], np.float32), np.array([0.1], np.float32)
# torch.nn.MSELoss()(x @ W.T + B, y) of the four rows with a target: value, gradients of W and B.
LOSS, GRAD_W, GRAD_B = 2540.9931640625, [[102.25, 9.293749809265137]], [49.025001525878906]


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(2, 1, weight_init=Tensor(W), bias_init=Tensor(B))

    def construct(self, x):
        return self.dense(x)


def test_value_and_gradients_are_torchs(mode):
    net = Net()
    loss = SupervisedLoss(net)

    def forward(denominator, targets, x):
        return loss(denominator, targets, x)[0]

    gradient = ms.value_and_grad(forward, None, net.trainable_params())
    value, grads = gradient(Tensor(4.0, ms.float32), Tensor(Y), Tensor(X))
    assert float(value.asnumpy()) == pytest.approx(LOSS, rel=1e-6)
    np.testing.assert_allclose(grads[0].asnumpy(), GRAD_W, rtol=1e-5)
    np.testing.assert_allclose(grads[1].asnumpy(), GRAD_B, rtol=1e-5)


def test_the_stored_values_are_torchs():
    torch = pytest.importorskip("torch")
    w, b = torch.tensor(W, requires_grad=True), torch.tensor(B, requires_grad=True)
    known = ~np.isnan(Y)
    value = torch.nn.MSELoss()((torch.tensor(X[known]) @ w.T + b).squeeze(), torch.tensor(Y[known]))
    value.backward()
    assert value.item() == pytest.approx(LOSS, rel=1e-6)
    np.testing.assert_allclose(w.grad.numpy(), GRAD_W, rtol=1e-6)
    np.testing.assert_allclose(b.grad.numpy(), GRAD_B, rtol=1e-6)


def test_accumulation_is_exact(mode):
    """Micro-batches of 1, 3 and 1 rows, one of which has no target, train as all rows at once."""
    found = []
    for groups in ([range(5)], [[0], [1, 2, 3], [4]]):
        net = Net()
        schedule = Schedule(kind="constant", peak=1e-2, warmup_steps=0, total_steps=100)
        optimizer = AdamW(net.trainable_params(), schedule, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0)
        step = TrainStep(SupervisedLoss(net), optimizer, accumulate=len(groups), clip=0.0)
        loss = 0.0
        for i, group in enumerate(groups):
            rows = list(group)
            value, norm, _, _ = step(i == len(groups) - 1, Tensor(4.0, ms.float32), Tensor(Y[rows]), Tensor(X[rows]))
            loss += float(value.asnumpy())
        found.append((loss, float(norm.asnumpy())))
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert found[0] == pytest.approx(
        (LOSS, float(np.sqrt(np.square(GRAD_W).sum() + np.square(GRAD_B).sum()))), rel=1e-5
    )


def test_half_predictions_are_widened(mode):
    error = SquaredError()(Tensor([300.0, 1.0], ms.float16), Tensor([0.0, np.nan], ms.float32))
    assert error.dtype == ms.float32
    assert error.asnumpy().tolist() == [90000.0, 0.0]
    assert float(ops.ReduceSum()(error).asnumpy()) == 90000.0
