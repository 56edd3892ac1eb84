"""The compiled step: accumulation exact per token, clipping, NaN safety, loss scaling, in both modes."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun.tensors.known_names import OPTIMIZER_STATE, is_spare
from petrun.train.adamw import AdamW
from petrun.train.loss import SupervisedLoss
from petrun.train.schedules import Schedule
from petrun.train.step import TrainStep

ROWS, WIDTH, CLASSES = 6, 5, 4
RNG = np.random.default_rng(3)
X = RNG.normal(size=(ROWS, 3, WIDTH)).astype(np.float32)
Y = RNG.integers(0, CLASSES, (ROWS, 3)).astype(np.int32)
Y[0, :2] = -100
Y[4, 1:] = -100


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(1)
        self.first = nn.Dense(
            WIDTH, 7, weight_init=Tensor(rng.normal(size=(7, WIDTH)).astype(np.float32)), bias_init="zeros"
        )
        self.last = nn.Dense(
            7, CLASSES, weight_init=Tensor(rng.normal(size=(CLASSES, 7)).astype(np.float32)), bias_init="zeros"
        )

    def construct(self, x):
        return self.last(ops.tanh(self.first(x)))


def build(accumulate=1, clip=0.0, loss_scale=None, lr=1e-2):
    net = Net()
    net.set_train(True)
    optimizer = AdamW(
        net.trainable_params(),
        Schedule(kind="constant", peak=lr, warmup_steps=0, total_steps=100),
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.01,
    )
    return net, TrainStep(SupervisedLoss(net), optimizer, accumulate=accumulate, clip=clip, loss_scale=loss_scale)


def run(step, parts, count):
    """One optimizer step over `parts` of the rows."""
    total = 0.0
    for i, rows in enumerate(parts):
        out = step(i == len(parts) - 1, Tensor(float(count), ms.float32), Tensor(Y[rows]), Tensor(X[rows]))
        total += float(out[0].asnumpy())
    return total, float(out[1].asnumpy()), bool(out[3].asnumpy())


def numpy_loss_and_grads(net):
    """Mean cross entropy over supervised items, and the gradient of the last layer's weight."""
    p = {q.name: q.asnumpy().astype(np.float64) for q in net.get_parameters()}
    h = np.tanh(X @ p["first.weight"].T + p["first.bias"])
    z = h @ p["last.weight"].T + p["last.bias"]
    z = z - z.max(-1, keepdims=True)
    prob = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    keep = Y != -100
    y = np.where(keep, Y, 0)
    loss = -np.log(np.take_along_axis(prob, y[..., None], -1)[..., 0])[keep].sum() / keep.sum()
    dz = (prob - np.eye(CLASSES)[y]) * keep[..., None] / keep.sum()
    return loss, np.einsum("btc,bth->ch", dz, h)


COUNT = int((Y != -100).sum())
WHOLE = [np.arange(ROWS)]
UNEVEN = [np.array([0]), np.array([1, 2, 3]), np.array([4, 5])]


def test_uneven_accumulation_equals_one_batch(mode):
    """Micro-batches with 1, 9 and 4 supervised items give the same losses and weights as all rows at once."""
    one, step_one = build()
    many, step_many = build(accumulate=3)
    expected, _ = numpy_loss_and_grads(one)
    for i in range(3):
        loss_one, norm_one, _ = run(step_one, WHOLE, COUNT)
        loss_many, norm_many, _ = run(step_many, UNEVEN, COUNT)
        assert loss_many == pytest.approx(loss_one, rel=1e-5)
        assert norm_many == pytest.approx(norm_one, rel=1e-4)
        if i == 0:
            assert loss_one == pytest.approx(expected, rel=1e-5)
    for p, q in zip(one.get_parameters(), many.get_parameters(), strict=True):
        np.testing.assert_allclose(p.asnumpy(), q.asnumpy(), atol=2e-5)


def test_gradient_norm_is_numpys():
    net, step = build()
    only = [p for p in net.get_parameters() if p.name == "last.weight"]
    step = TrainStep(
        SupervisedLoss(net),
        AdamW(
            only,
            Schedule(kind="constant", peak=1e-2, warmup_steps=0, total_steps=9),
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=0.0,
        ),
        clip=0.0,
    )
    _, grad = numpy_loss_and_grads(net)
    _, norm, _ = run(step, WHOLE, COUNT)
    assert norm == pytest.approx(float(np.linalg.norm(grad)), rel=1e-4)


def test_clipping_bounds_the_first_moment():
    _, step = build(clip=0.01)
    _, norm, _ = run(step, WHOLE, COUNT)
    assert norm > 0.05
    first = np.concatenate([m.asnumpy().ravel() for m in step.optimizer.m])
    assert np.linalg.norm(first) / 0.1 == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_nan_changes_nothing_and_is_reported(accumulate):
    net, step = build(accumulate=accumulate)
    parts = WHOLE if accumulate == 1 else [np.arange(3), np.arange(3, 6)]
    run(step, parts, COUNT)
    before = {p.name: p.asnumpy().copy() for p in [*net.get_parameters(), *step.optimizer.m, *step.optimizer.v]}
    for i, rows in enumerate(parts):
        bad = X[rows].copy()
        bad[0, 0, 0] = np.nan
        out = step(
            i == len(parts) - 1, Tensor(float(COUNT), ms.float32), Tensor(np.abs(Y[rows]) % CLASSES), Tensor(bad)
        )
    assert not bool(out[3].asnumpy())
    for p in [*net.get_parameters(), *step.optimizer.m, *step.optimizer.v]:
        np.testing.assert_array_equal(p.asnumpy(), before[p.name])
    assert int(step.optimizer.step.asnumpy()) == 1
    _, _, fine = run(step, parts, COUNT)
    assert fine, "the accumulators must be clean after a step that was not finite"


def test_loss_scale_does_not_change_the_result_and_halves_on_overflow():
    plain, step_plain = build()
    scaled, step_scaled = build(loss_scale=1024.0)
    assert run(step_plain, WHOLE, COUNT)[0] == pytest.approx(run(step_scaled, WHOLE, COUNT)[0], rel=1e-6)
    for p, q in zip(plain.get_parameters(), scaled.get_parameters(), strict=True):
        np.testing.assert_allclose(p.asnumpy(), q.asnumpy(), atol=1e-6)
    bad = np.full_like(X, np.inf)
    step_scaled(True, Tensor(1.0, ms.float32), Tensor(np.abs(Y) % CLASSES), Tensor(bad))
    assert float(step_scaled.scale.asnumpy()) == 512.0


def test_the_loss_alone_sums_and_changes_nothing():
    net, _ = build()
    net.set_train(False)
    expected, _ = numpy_loss_and_grads(net)
    before = [p.asnumpy().copy() for p in net.get_parameters()]
    value, logits = SupervisedLoss(net)(Tensor(1.0, ms.float32), Tensor(Y), Tensor(X))
    assert float(value.asnumpy()) == pytest.approx(expected * COUNT, rel=1e-5)
    assert logits.shape == (ROWS, 3, CLASSES)
    for p, q in zip(net.get_parameters(), before, strict=True):
        np.testing.assert_array_equal(p.asnumpy(), q)


@pytest.mark.all_only
@pytest.mark.parametrize("made", [{}, {"accumulate": 2, "clip": 1.0, "loss_scale": 8.0}])
def test_all_that_a_step_holds_beside_the_net_is_known_as_its_state(made):
    """Strategy files and checkpoints list it: a base that is resharded by one need not have it."""
    net, step = build(**made)
    weights = {p.name for p in net.get_parameters()}
    beside = {p.name for p in step.get_parameters()} - weights
    assert len(beside) > 10 and all(is_spare(name, OPTIMIZER_STATE, weights) for name in beside), beside


def test_hundreds_of_parameters_compile():
    """A whole BERT or a 32-layer Llama trains some 300 to 400 tensors at once: the depth of the graph must not grow with them."""

    class Deep(nn.Cell):
        def __init__(self):
            super().__init__()
            self.layers = nn.CellList([nn.Dense(2, 2) for _ in range(200)])

        def construct(self, x):
            for layer in self.layers:
                x = x + ops.tanh(layer(x))
            return x

    net = Deep()
    optimizer = AdamW(
        net.trainable_params(),
        Schedule(kind="constant", peak=1e-3, warmup_steps=0, total_steps=9),
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.01,
    )
    step = TrainStep(SupervisedLoss(net), optimizer, accumulate=2, loss_scale=8.0)
    batch = Tensor(3.0, ms.float32), Tensor(np.array([0, 1, 0], np.int32)), Tensor(np.ones((3, 2), np.float32))
    step(False, *batch)
    value, norm, _, finite = step(True, *batch)
    assert bool(finite.asnumpy()) and float(norm.asnumpy()) > 0 and np.isfinite(float(value.asnumpy()))
