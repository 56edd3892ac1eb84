"""PiSSA against numpy: the factors, the forward pass, the paper's form with a changed base, and the merge."""

import numpy as np
import pytest
from mindspore import Tensor, nn

from petrun.delta import METHODS
from petrun.delta.lora import LORA_A, LORA_B, LoraConfig
from petrun.delta.lora import pissa as lora_pissa
from petrun.delta.lora.pissa import LORA_A0, LORA_B0, PissaDense, principal_factors
from petrun.errors import TargetError
from petrun.graph.freeze import freeze_all_but
from petrun.graph.sites import Sites
from petrun.kernels import Dropout


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("scale", [2.0, -0.5])
@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_factors_are_equations_2_and_3(shape, scale):
    weight = numbers(shape)
    a, b = principal_factors(weight, 3, scale)
    left, values, right = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    assert a.dtype == b.dtype == np.float32 and a.shape == (3, shape[1]) and b.shape == (shape[0], 3)
    np.testing.assert_allclose(scale * b @ a, left[:, :3] * values[:3] @ right[:3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), np.sqrt(values[:3] / abs(scale)), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(b, axis=0), np.linalg.norm(a, axis=1), rtol=1e-5)
    peaks = np.take_along_axis(a, np.abs(a).argmax(1)[:, None], 1)
    assert (peaks > 0).all(), "the signs, which a decomposition leaves open, are settled"


def test_the_fast_way_for_wide_matrices_finds_the_same_triples(monkeypatch):
    """Subspace iteration, on a spectrum that falls as a trained matrix's does."""
    rng = np.random.default_rng(1)
    left, right = np.linalg.qr(rng.normal(size=(120, 100)))[0], np.linalg.qr(rng.normal(size=(90, 90)))[0][:90]
    weight = ((left[:, :90] * 0.9 ** np.arange(90)) @ right).astype(np.float32)
    exact = principal_factors(weight, 5, 1.0)
    monkeypatch.setattr(lora_pissa, "EXACT_WIDTH", 80)
    fast = principal_factors(weight, 5, 1.0)
    again = principal_factors(weight, 5, 1.0)
    for i in range(2):
        np.testing.assert_allclose(fast[i], exact[i], rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(fast[i], again[i])


def test_a_matrix_of_lower_rank_than_asked_for():
    weight = np.outer(numbers(5), numbers(7, 1)).astype(np.float32)
    a, b = principal_factors(weight, 3, 1.0)
    assert np.isfinite(a).all() and np.isfinite(b).all()
    np.testing.assert_allclose(b @ a, weight, rtol=1e-4, atol=1e-5)


def test_forward_is_the_formula_and_the_papers(mode):
    """Without dropout: the base with a changed weight, W - s B_0 A_0, plus the plain product s B A."""
    cell = PissaDense(6, 5, 2, 3.0, activation="relu")
    values = {
        LORA_A: numbers((2, 6), 1),
        LORA_B: numbers((5, 2), 2),
        LORA_A0: numbers((2, 6), 3),
        LORA_B0: numbers((5, 2), 4),
    }
    for name, value in values.items():
        getattr(cell, name).set_data(Tensor(value))
    x, w, bias = numbers((2, 3, 6), 5), cell.weight.asnumpy(), cell.bias.asnumpy()
    residual = w - 1.5 * values[LORA_B0] @ values[LORA_A0]
    expected = x @ residual.T + bias + 1.5 * (x @ values[LORA_A].T @ values[LORA_B].T)
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), np.maximum(expected, 0), rtol=1e-5, atol=2e-5)


def test_dropout_drops_the_change_alone(mode):
    cell = PissaDense(6, 5, 2, 4.0, 0.5)
    cell.lora_dropout = Dropout(0.5, 1, "site")
    a0, b0 = cell.mindpet_delta_lora_a0.asnumpy(), cell.mindpet_delta_lora_b0.asnumpy()
    a, b = a0 + numbers((2, 6), 1), b0 + numbers((5, 2), 2)
    cell.mindpet_delta_lora_a.set_data(Tensor(a))
    cell.mindpet_delta_lora_b.set_data(Tensor(b))
    cell.set_train(True)
    x = numbers((7, 6), 3)
    dropped = x * cell.lora_dropout(Tensor(np.ones_like(x))).asnumpy()
    assert (dropped == 0).any() and (dropped != 0).any()
    expected = x @ cell.weight.asnumpy().T + cell.bias.asnumpy() + 2.0 * dropped @ (b @ a - b0 @ a0).T
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), expected, rtol=1e-5, atol=2e-5)


def test_attached_net_leaves_the_base_alone_and_folds(mode):
    method = METHODS["lora"]
    net = nn.SequentialCell([nn.Dense(6, 8), nn.ReLU(), nn.Dense(8, 5, has_bias=False)])
    x = Tensor(numbers((4, 6), 7))
    before = net(x).asnumpy()
    base = {p.name: p.asnumpy().copy() for p in net.get_parameters()}
    config = LoraConfig(rank=2, alpha=6, variant="pissa", target=("all-linear",), rank_pattern={"2": 3})
    owned = method.attach(net, config, Sites(), 0)
    assert set(owned) == {f"{i}.{leaf}" for i in (0, 2) for leaf in (LORA_A, LORA_B, LORA_A0, LORA_B0)}
    np.testing.assert_array_equal(net(x).asnumpy(), before)
    trained = {p.name for p in freeze_all_but(net, owned, method.fixed).parameters}
    assert trained == {f"{i}.{leaf}" for i in (0, 2) for leaf in (LORA_A, LORA_B)}
    for p in net.get_parameters():
        if p.name in trained:
            p.set_data(p + Tensor(0.3 * numbers(p.shape, len(p.name))))
    now = {p.name: p.asnumpy() for p in net.get_parameters()}
    assert all(np.array_equal(base[name], now[name]) for name in base)
    assert now[f"2.{LORA_A}"].shape == (3, 8)
    update = method.merge(config, {name: now[name] for name in owned})
    merged = {name: update(name, value) for name, value in base.items()}
    change = now[f"0.{LORA_B}"] @ now[f"0.{LORA_A}"] - now[f"0.{LORA_B0}"] @ now[f"0.{LORA_A0}"]
    np.testing.assert_allclose(merged["0.weight"], base["0.weight"] + 3.0 * change, rtol=1e-5, atol=1e-5)
    plain = np.maximum(x.asnumpy() @ merged["0.weight"].T + merged["0.bias"], 0) @ merged["2.weight"].T
    np.testing.assert_allclose(net(x).asnumpy(), plain, rtol=1e-5, atol=1e-4)


def test_more_triples_than_a_layer_has():
    net = nn.SequentialCell([nn.Dense(6, 8), nn.Dense(8, 3)])
    with pytest.raises(TargetError) as caught:
        METHODS["lora"].attach(net, LoraConfig(rank=4, variant="pissa", target=("all-linear",)), Sites(), 0)
    assert "1 is 3 x 8: it has 3 singular triples, rank is 4" in caught.value.message
    assert "0 is" not in caught.value.message and "--rank" in caught.value.hint
