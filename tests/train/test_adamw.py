"""AdamW against numpy."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from petrun.train.adamw import AdamW, HostAdamW, decays
from petrun.train.schedules import Schedule


def reference_adamw(w, grads, rates, beta1, beta2, eps, decay):
    m = v = 0.0
    w = w.astype(np.float64)
    for t, (g, rate) in enumerate(zip(grads, rates, strict=True), 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        w = w - rate * decay * w
        w = w - rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return w


@pytest.mark.parametrize("scale", [1.0, 1e-7], ids=["plain", "tiny-gradients"])
@pytest.mark.parametrize("kind", [AdamW, HostAdamW])
def test_adamw_is_the_formula(mode, scale, kind):
    """Tiny gradients show whether eps stands where torch has it: outside the corrected square root. And what is not finite leaves
    everything as it was."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 3)).astype(np.float32)
    bias = rng.normal(size=(3,)).astype(np.float32)
    weight = Parameter(Tensor(start), name="layer.weight")
    shift = Parameter(Tensor(bias), name="layer.bias")
    schedule = Schedule(kind="cosine", peak=1e-2, warmup_steps=2, total_steps=6)
    optimizer = kind([weight, shift], schedule, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
    grads = [(scale * rng.normal(size=(4, 3))).astype(np.float32) for _ in range(6)]
    bias_grads = [(scale * rng.normal(size=(3,))).astype(np.float32) for _ in range(6)]
    rates = []
    bad = (Tensor(np.full((4, 3), np.nan, np.float32)), Tensor(np.full(3, np.inf, np.float32)))
    for g, b in zip(grads, bias_grads, strict=True):
        before = [p.asnumpy().tobytes() for p in (weight, shift, *optimizer.get_parameters())]
        optimizer(bad, Tensor(False))
        assert [p.asnumpy().tobytes() for p in (weight, shift, *optimizer.get_parameters())] == before
        rates.append(float(optimizer((Tensor(g), Tensor(b)), Tensor(True)).asnumpy()))
    ms.set_context(mode=ms.GRAPH_MODE)
    np.testing.assert_allclose(rates, [schedule.at(s) for s in range(6)], rtol=1e-5)
    expected = reference_adamw(start, grads, rates, 0.9, 0.95, 1e-8, 0.1)
    np.testing.assert_allclose(weight.asnumpy(), expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(
        shift.asnumpy(), reference_adamw(bias, bias_grads, rates, 0.9, 0.95, 1e-8, 0.0), rtol=2e-4, atol=1e-6
    )


def test_what_decays():
    assert decays("layers.0.attn.q.weight", 2, False)
    assert decays("layers.0.attn.q.mindpet_delta_lora_a", 2, False)
    assert not decays("layers.0.attn.q.bias", 1, False)
    assert not decays("layers.0.attn_norm.weight", 1, False)
    assert not decays("x.norm.gamma", 1, False)
    assert decays("layers.0.attn.q.bias", 1, True)
