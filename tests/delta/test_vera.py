"""VeRA: the matrices that layers share, initial values and slices; its numbers are held against peft in test_peft_layers.py."""

import numpy as np
import pytest
from mindspore import Tensor, nn

from petrun.delta import METHODS
from petrun.delta.vera import VERA_A, VERA_B, VERA_LAMBDA_B, VERA_LAMBDA_D, VeraConfig
from petrun.errors import DeltaError
from petrun.graph.freeze import freeze_all_but
from petrun.graph.sites import Sites

VERA = METHODS["vera"]


def attached(seed=0, **settings):
    net = nn.SequentialCell(nn.Dense(6, 5), nn.Dense(5, 9), nn.Dense(9, 4))
    config = VeraConfig(target=("all-linear",), rank=3, **settings)
    return net, config, VERA.attach(net, config, Sites(), seed)


def test_layers_share_two_matrices_that_do_not_train():
    net, _, owned = attached(d_initial=0.3)
    names = [
        f"0.{VERA_A}",
        f"0.{VERA_B}",
        *(f"{i}.{leaf}" for i in range(3) for leaf in (VERA_LAMBDA_D, VERA_LAMBDA_B)),
    ]
    assert sorted(owned) == sorted(names)
    assert net[0].mindpet_delta_vera_a is net[2].mindpet_delta_vera_a
    values = {p.name: p.asnumpy() for p in net.get_parameters()}
    assert (values[f"0.{VERA_A}"].shape, values[f"0.{VERA_B}"].shape) == ((3, 9), (9, 3))
    assert all((values[f"{i}.{VERA_LAMBDA_D}"] == np.float32(0.3)).all() for i in range(3))
    assert not any(values[f"{i}.{VERA_LAMBDA_B}"].any() for i in range(3))
    trained = {p.name for p in freeze_all_but(net, owned, VERA.fixed).parameters}
    assert trained == {name for name in names if "lambda" in name}


def test_the_matrices_follow_the_seed_and_hes_bounds():
    net, _, _ = attached(seed=1)
    same, other = attached(seed=1)[0], attached(seed=2)[0]
    np.testing.assert_array_equal(net[0].mindpet_delta_vera_a.asnumpy(), same[0].mindpet_delta_vera_a.asnumpy())
    assert np.abs(net[0].mindpet_delta_vera_a.asnumpy() - other[0].mindpet_delta_vera_a.asnumpy()).max() > 0.1
    wide = nn.SequentialCell(nn.Dense(600, 400))
    VERA.attach(wide, VeraConfig(target=("all-linear",), rank=50), Sites(), 0)
    for matrix, fan in ((wide[0].mindpet_delta_vera_a, 600), (wide[0].mindpet_delta_vera_b, 50)):
        bound = np.sqrt(6 / fan)
        assert 0.99 * bound < np.abs(matrix.asnumpy()).max() <= bound


def test_every_layer_takes_its_slices(pynative):
    net, config, owned = attached()
    rng = np.random.default_rng(0)
    for p in net.get_parameters():
        if p.name in owned:
            p.set_data(Tensor(rng.normal(size=p.shape).astype(np.float32)))
    values = {p.name: p.asnumpy() for p in net.get_parameters()}
    x = rng.normal(size=(4, 6)).astype(np.float32)
    y, update = x, VERA.merge(config, {name: values[name] for name in owned})
    for i in range(3):
        w, a, b = values[f"{i}.weight"], values[f"0.{VERA_A}"], values[f"0.{VERA_B}"]
        full = (
            w
            + np.diag(values[f"{i}.{VERA_LAMBDA_B}"])
            @ b[: len(w)]
            @ np.diag(values[f"{i}.{VERA_LAMBDA_D}"])
            @ a[:, : w.shape[1]]
        )
        np.testing.assert_allclose(update(f"{i}.weight", w), full, atol=1e-5)
        y = y @ full.T + values[f"{i}.bias"]
    np.testing.assert_allclose(net(Tensor(x)).asnumpy(), y, rtol=1e-4, atol=1e-4)


def test_a_delta_without_its_matrices():
    with pytest.raises(DeltaError, match="holds 0 tensors mindpet_delta_vera_a, and all layers share one"):
        VERA.merge(VeraConfig(), {f"0.{VERA_LAMBDA_B}": np.ones(3, np.float32)})
