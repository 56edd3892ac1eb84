"""DoRA against numpy: forward, gradient with the norm held constant, dropout, the start and the merge, in both execution modes."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun.delta import METHODS
from petrun.delta.lora import LORA_A, LORA_B, LoraConfig
from petrun.delta.lora.dora import LORA_M, DoraDense
from petrun.graph.sites import Sites
from petrun.kernels import Dropout

WIDE_IN, WIDE_OUT, RANK, SCALE = 6, 5, 2, 1.5


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def build(bias=True, dropout=0.0):
    """A DoraDense with random values everywhere, and these values."""
    values = {
        "weight": numbers((WIDE_OUT, WIDE_IN), 1),
        LORA_A: numbers((RANK, WIDE_IN), 2),
        LORA_B: numbers((WIDE_OUT, RANK), 3),
        LORA_M: 1.0 + np.abs(numbers((WIDE_OUT,), 4)),
        "bias": numbers((WIDE_OUT,), 5) if bias else np.zeros(WIDE_OUT, np.float32),
    }
    cell = DoraDense(WIDE_IN, WIDE_OUT, RANK, SCALE * RANK, dropout, has_bias=bias)
    cell.lora_dropout = Dropout(dropout, 3, "site")
    for name, value in values.items():
        if name != "bias" or bias:
            getattr(cell, name).set_data(Tensor(value))
    return cell, {name: value.astype(np.float64) for name, value in values.items()}


def norms_of(v):
    return np.linalg.norm(v["weight"] + SCALE * v[LORA_B] @ v[LORA_A], axis=1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, WIDE_IN), (2, 3, WIDE_IN)])
def test_forward_is_equation_5(mode, bias, shape):
    cell, v = build(bias)
    x = numbers(shape, 9)
    direction = v["weight"] + SCALE * v[LORA_B] @ v[LORA_A]
    expected = x @ (v[LORA_M][:, None] * direction / norms_of(v)[:, None]).T + v["bias"]
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), expected, rtol=1e-5, atol=1e-5)


def test_with_dropout_the_base_itself_keeps_the_whole_input(mode):
    """peft's form: y = x W^T + b + (m/n - 1) d(x) W^T + m/n s d(x) A^T B^T."""
    cell, v = build(dropout=0.4)
    cell.set_train(True)
    x = numbers((7, WIDE_IN), 9)
    mask = cell.lora_dropout(Tensor(np.ones_like(x))).asnumpy()
    np.testing.assert_allclose(np.unique(mask), [0.0, 1 / 0.6], rtol=1e-6)
    dropped, ratio = x * mask, v[LORA_M] / norms_of(v)
    expected = (
        x @ v["weight"].T
        + v["bias"]
        + (ratio - 1) * (dropped @ v["weight"].T)
        + ratio * SCALE * (dropped @ v[LORA_A].T @ v[LORA_B].T)
    )
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), expected, rtol=1e-5, atol=1e-5)


def test_gradient_takes_the_norm_as_a_constant(mode):
    cell, v = build()
    x, outer = numbers((4, WIDE_IN), 9), numbers((4, WIDE_OUT), 10)
    parameters = [cell.mindpet_delta_lora_m, cell.mindpet_delta_lora_a, cell.mindpet_delta_lora_b]

    def weighted(inputs, by):
        return (cell(inputs) * by).sum()

    to_x, (to_m, to_a, to_b) = ms.grad(weighted, 0, parameters)(Tensor(x), Tensor(outer))
    norms = norms_of(v)
    scaled = outer * (v[LORA_M] / norms)
    direction = v["weight"] + SCALE * v[LORA_B] @ v[LORA_A]
    for found, expected in [
        (to_m, (outer * (x @ direction.T)).sum(0) / norms),
        (to_a, SCALE * v[LORA_B].T @ scaled.T @ x),
        (to_b, SCALE * scaled.T @ (x @ v[LORA_A].T)),
        (to_x, scaled @ direction),
    ]:
        np.testing.assert_allclose(found.asnumpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 30.0])
def test_norm_of_small_and_large_updates(mode, factor):
    """No matrix of the weight's size is built for it, so it is held against the norm of that matrix."""
    cell = DoraDense(64, 48, 4, 8.0)
    a, b = numbers((4, 64), 1), factor * numbers((48, 4), 2)
    cell.mindpet_delta_lora_a.set_data(Tensor(a))
    cell.mindpet_delta_lora_b.set_data(Tensor(b))
    merged = cell.weight.asnumpy().astype(np.float64) + 2.0 * b.astype(np.float64) @ a
    np.testing.assert_allclose(cell.row_norms().asnumpy(), np.linalg.norm(merged, axis=1), rtol=1e-5)


def test_a_row_of_zeros_stays_finite(mode):
    """A pruned output has no direction; peft divides 0 by 0 here."""
    dense = nn.Dense(WIDE_IN, WIDE_OUT)
    weight = numbers((WIDE_OUT, WIDE_IN))
    weight[2] = 0.0
    dense.weight.set_data(Tensor(weight))
    net = nn.SequentialCell([dense])
    x = Tensor(numbers((3, WIDE_IN)))
    before = net(x).asnumpy()
    METHODS["lora"].attach(net, LoraConfig(rank=2, variant="dora", target=("all-linear",)), Sites(), 0)
    np.testing.assert_array_equal(net(x).asnumpy(), before)

    def squared(inputs):
        return ops.square(net(inputs)).sum()

    gradients = ms.grad(squared, None, net.trainable_params())(x)
    assert len(gradients) == 5 and all(np.isfinite(g.asnumpy()).all() for g in gradients)


def test_attached_net_equals_the_folded_weights(mode):
    method = METHODS["lora"]
    net = nn.SequentialCell([nn.Dense(WIDE_IN, 8), nn.ReLU(), nn.Dense(8, WIDE_OUT, has_bias=False)])
    x = Tensor(numbers((4, WIDE_IN), 7))
    before = net(x).asnumpy()
    base = {p.name: p.asnumpy().copy() for p in net.get_parameters()}
    config = LoraConfig(rank=2, alpha=6, variant="dora", target=("all-linear",))
    owned = method.attach(net, config, Sites(), 0)
    assert set(owned) == {f"{i}.{leaf}" for i in (0, 2) for leaf in (LORA_A, LORA_B, LORA_M)}
    np.testing.assert_array_equal(net(x).asnumpy(), before)
    started = {p.name: p.asnumpy() for p in net.get_parameters()}
    np.testing.assert_allclose(started[f"0.{LORA_M}"], np.linalg.norm(base["0.weight"], axis=1), rtol=1e-6)
    delta = {}
    for p in net.get_parameters():
        if p.name in owned:
            p.set_data(p + Tensor(numbers(p.shape, len(p.name))))
            delta[p.name] = p.asnumpy()
    update = method.merge(config, delta)
    merged = {name: update(name, value) for name, value in base.items()}
    np.testing.assert_array_equal(merged["0.bias"], base["0.bias"])
    np.testing.assert_allclose(np.linalg.norm(merged["0.weight"], axis=1), np.abs(delta[f"0.{LORA_M}"]), rtol=1e-5)
    plain = np.maximum(x.asnumpy() @ merged["0.weight"].T + merged["0.bias"], 0) @ merged["2.weight"].T
    np.testing.assert_allclose(net(x).asnumpy(), plain, rtol=1e-5, atol=1e-4)
