"""AdamW against numpy."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from petrun import kernels
from petrun.kernels import native
from petrun.train.adamw import AdamW, HostAdamW, decays
from petrun.train.schedules import Schedule
from tests.kernels.conftest import fused  # noqa: F401 (a fixture)
from tests.kernels.direct import Library

START = np.random.default_rng(5).normal(size=(4, 3)).astype(np.float32)
GRAD = np.random.default_rng(6).normal(size=(4, 3)).astype(np.float32)


def reference_adamw(w, grads, rates, beta1, beta2, eps, decay):
    m = v = 0.0
    w = w.astype(np.float64)
    for t, (g, rate) in enumerate(zip(grads, rates, strict=True), 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        w = w - rate * decay * w
        w = w - rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return w


def of_primitives(*arguments, **settings):
    """AdamW as on Ascend."""
    with kernels.primitives_only():
        return AdamW(*arguments, **settings)


@pytest.mark.parametrize("kind", [AdamW, of_primitives, HostAdamW])
def test_adamw_is_the_formula(mode, kind):
    """A weight, a bias, which does not decay, and a weight with tiny gradients, which show whether eps stands where torch has it:
    outside the corrected square root. And what is not finite leaves everything as it was.
    """
    rng = np.random.default_rng(0)
    starts = [rng.normal(size=shape).astype(np.float32) for shape in ((4, 3), (3,), (4, 3))]
    names = ("layer.weight", "layer.bias", "tiny.weight")
    weights = [Parameter(Tensor(start), name=name) for start, name in zip(starts, names, strict=True)]
    schedule = Schedule(kind="cosine", peak=1e-2, warmup_steps=2, total_steps=6)
    optimizer = kind(weights, schedule, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    assert optimizer.is_fused == (kind is AdamW and kernels.status().fused)
    scales = (1.0, 1.0, 1e-7)
    grads = [
        [(scale * rng.normal(size=start.shape)).astype(np.float32) for scale, start in zip(scales, starts, strict=True)]
        for _ in range(6)
    ]
    bad = tuple(
        Tensor(np.full(start.shape, value, np.float32))
        for start, value in zip(starts, (np.nan, np.inf, 0.0), strict=True)
    )
    rates = []
    for step in grads:
        before = [p.asnumpy().tobytes() for p in (*weights, *optimizer.get_parameters())]
        optimizer(bad, Tensor(False))
        assert [p.asnumpy().tobytes() for p in (*weights, *optimizer.get_parameters())] == before
        rates.append(float(optimizer(tuple(map(Tensor, step)), Tensor(True)).asnumpy()))
    ms.set_context(mode=ms.GRAPH_MODE)
    np.testing.assert_allclose(rates, [schedule.at(s) for s in range(6)], rtol=1e-5)
    for i, decay in enumerate((0.1, 0.0, 0.1)):
        expected = reference_adamw(starts[i], [step[i] for step in grads], rates, 0.9, 0.95, 1e-8, decay)
        np.testing.assert_allclose(weights[i].asnumpy(), expected, rtol=2e-4, atol=1e-6, err_msg=names[i])


@pytest.mark.parametrize("kind", [AdamW, of_primitives])
def test_gradients_are_multiplied_as_they_are_read(mode, kind):
    rng = np.random.default_rng(1)
    start, grad = (rng.normal(size=(5, 40)).astype(np.float32) for _ in range(2))
    schedule = Schedule(kind="constant", peak=1e-2, warmup_steps=0, total_steps=6)
    found = []
    for factor, more in ((1.0, (Tensor(0.25, ms.float32),)), (0.25, ())):
        weight = Parameter(Tensor(start), name="layer.weight")
        optimizer = kind(
            [weight], schedule, beta1=0.9, beta2=0.95, eps=1e-3, weight_decay=0.1, rates={"layer.weight": 2.0}
        )
        for _ in range(2):
            optimizer((Tensor(factor * grad),), Tensor(True), *more)
        found.append([p.asnumpy() for p in (weight, *optimizer.m, *optimizer.v)])
    for scaled, plain in zip(*found, strict=True):
        np.testing.assert_array_equal(scaled, plain)
    expected = reference_adamw(start, [0.25 * grad] * 2, [2e-2] * 2, 0.9, 0.95, 1e-3, 0.1)
    np.testing.assert_allclose(found[0][0], expected, rtol=2e-4, atol=1e-6)


def test_the_operator_gives_the_same_bits_with_any_number_of_threads(fused):  # noqa: F811
    """Sizes of several pieces and with a tail. A step that is not taken writes nothing."""
    library = Library(native.library())
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal(40_003).astype(np.float32) for _ in range(4)]
    arrays[2] = np.abs(arrays[2])
    own = np.array([0.5, 0.1], np.float32)

    def after(threads, taken):
        library.set_threads(threads)
        changed = [a.copy() for a in arrays]
        numbers = np.array([taken, 0.7, 1e-2, 0.9, 0.99, 0.81, 0.98, 1e-8, 0.1], np.float32)
        code, _ = library.call("adamw", [*changed, numbers, own], [(1,)])
        assert code == 0
        return [a.tobytes() for a in changed]

    try:
        one = after(1, 1.0)
        assert one == after(2, 1.0) == after(3, 1.0)
        assert after(2, 0.0) == [a.tobytes() for a in arrays]
    finally:
        library.set_threads(0)
    weight, m, v, gradient = (a.astype(np.float64) for a in arrays)
    m = 0.9 * m + 0.1 * 0.7 * gradient
    v = 0.99 * v + 0.01 * (0.7 * gradient) ** 2
    weight = weight * (1 - 0.5e-2 * 0.01) - 0.5e-2 * (m / (1 - 0.81)) / (np.sqrt(v / (1 - 0.98)) + 1e-8)
    for text, expected in zip(one, (weight, m, v), strict=False):
        np.testing.assert_allclose(np.frombuffer(text, np.float32), expected, rtol=1e-5, atol=1e-6)


def test_what_decays():
    assert decays("layers.0.attn.q.weight", 2, False)
    assert decays("layers.0.attn.q.mindpet_delta_lora_a", 2, False)
    assert not decays("layers.0.attn.q.bias", 1, False)
    assert not decays("layers.0.attn_norm.weight", 1, False)
    assert not decays("x.norm.gamma", 1, False)
    assert decays("layers.0.attn.q.bias", 1, True)


def test_a_cell_takes_the_numbers_of_another_run(mode):
    """A step that is given the numbers of another run computes what that run's own cell does, to the bit."""

    def updated(cell, weight):
        for grad in (GRAD, -GRAD):
            cell((Tensor(grad),), Tensor(True))
        return weight.asnumpy().copy()

    first = Schedule(kind="cosine", peak=1e-2, warmup_steps=0, total_steps=4)
    second = Schedule(kind="cosine", peak=3e-3, warmup_steps=1, total_steps=9, min_ratio=0.1)
    numbers = {"beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.2}
    own = Parameter(Tensor(START), name="layer.weight")
    expected = updated(AdamW([own], second, **numbers), own)
    weight = Parameter(Tensor(START), name="layer.weight")
    cell = AdamW([weight], first, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0)
    updated(cell, weight)
    for parameter in (weight, *cell.m, *cell.v):
        parameter.set_data(Tensor(START if parameter is weight else np.zeros_like(START)))
    cell.step.set_data(Tensor(0, ms.int32))
    cell.rate.set_schedule(second)
    cell.set_numbers(**numbers)
    assert updated(cell, weight).tobytes() == expected.tobytes()
    with pytest.raises(ValueError, match="linear"):
        cell.rate.set_schedule(Schedule(kind="linear", peak=1.0, warmup_steps=0, total_steps=2))
