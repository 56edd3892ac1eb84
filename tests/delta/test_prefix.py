"""Prefix tuning and P-tuning v2: what their cells give, against numpy, and that key and value both train."""

import numpy as np
import pytest
from mindspore import Tensor, ops, value_and_grad

from petrun.delta import METHODS
from petrun.delta.parts import Prefix, Projected, Table, Trunk
from petrun.graph.freeze import freeze_all_but
from tests.evaluate.test_generate import build

P, HEADS, WIDTH, MIDDLE = 3, 2, 4, 5


def test_projected_prefix(mode):
    trunk = Trunk(P, HEADS * WIDTH, MIDDLE, 0, "t")
    cell = Prefix(Projected(trunk, MIDDLE, 2 * HEADS * WIDTH, 0, "p"), HEADS, WIDTH, 0.0, 0, "d")
    w = {path.rpartition("source.")[2]: p.asnumpy() for path, p in cell.parameters_and_names()}
    inner = np.tanh(w["trunk.embedding.table"] @ w["trunk.dense_in.weight"].T + w["trunk.dense_in.bias"])
    flat = inner @ w["dense_out.weight"].T + w["dense_out.bias"]
    got = cell().asnumpy()
    assert got.shape == (2, HEADS, P, WIDTH)
    for kind in range(2):
        for head in range(HEADS):
            start = kind * HEADS * WIDTH + head * WIDTH
            np.testing.assert_allclose(got[kind, head], flat[:, start : start + WIDTH], rtol=1e-5, atol=1e-6)


def test_dropout_repeats_and_scales(pynative):
    values = np.ones((40, 2 * HEADS * WIDTH), np.float32)
    cell = Prefix(Table(values), HEADS, WIDTH, 0.25, 1, "site")
    cell.set_train(True)
    first = cell().asnumpy()
    np.testing.assert_array_equal(first, cell().asnumpy())
    assert set(np.unique(first)) == {0.0, np.float32(1 / 0.75)}
    assert 0.15 < (first == 0).mean() < 0.35
    cell.set_train(False)
    np.testing.assert_array_equal(cell().asnumpy(), np.ones_like(first))


@pytest.mark.parametrize("algo", ["prefix", "ptuning2"])
def test_key_and_value_are_two_and_both_train(pynative, algo):
    net, sites = build("llama")
    method = METHODS[algo]
    owned = method.attach(net, method.config(tokens=P), sites, 0)
    parameters = freeze_all_but(net, owned).parameters
    ids = Tensor(np.array([[1, 2, 3]], np.int32))
    segments, positions = Tensor(np.ones((1, 3), np.int32)), Tensor(np.array([[0, 1, 2]], np.int32))
    _, grads = value_and_grad(lambda: ops.square(net(ids, segments, positions)).sum(), None, parameters)()
    for p, g in zip(parameters, grads, strict=True):
        assert np.abs(g.asnumpy()).max() > 0, p.name
    core = net.layers[0].attn.core
    keys, values = core.encoder().asnumpy()
    assert np.abs(keys - values).max() > 1e-3


def test_layers_share_the_trunk_and_nothing_else(pynative):
    net, sites = build("llama")
    method = METHODS["prefix"]
    owned = method.attach(net, method.config(tokens=P, middle=MIDDLE), sites, 0)
    trunk = [n for n in owned if ".trunk." in n]
    assert len(trunk) == 3 and len(owned) == 3 + 2 * 2
    width = sites.kv_heads * sites.head_dim
    sizes = {p.name: p.size for p in net.get_parameters() if p.name in owned}
    # peft's PrefixEncoder with projection: embedding, first layer, and the second with a share for each layer.
    expected = P * width + width * MIDDLE + MIDDLE + (MIDDLE + 1) * 2 * sites.layers * width
    assert sum(sizes.values()) == expected
