"""(IA)^3 against numpy, its default layers in every family, and what it folds into."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun.delta import METHODS
from petrun.delta.ia3 import IA3_L, IA3_L_FF, Ia3Config
from petrun.errors import TargetError
from petrun.graph.sites import Sites
from petrun.models.factory import load_model
from tests.tiny import write_base


class Mlp(nn.Cell):
    """The second layer is square: its scale does not show its side by its shape. The first has an activation of its own."""

    def __init__(self, dtype=ms.float32):
        super().__init__()
        self.first = nn.Dense(6, 5, bias_init="normal", activation="relu", dtype=dtype)
        self.second = nn.Dense(5, 5, bias_init="normal", dtype=dtype)
        self.third = nn.Dense(5, 3, has_bias=False, dtype=dtype)

    def construct(self, x):
        return self.third(ops.relu(self.second(self.first(x))))


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def filled(dtype=ms.float32):
    net = Mlp(dtype)
    for i, p in enumerate(net.get_parameters()):
        p.set_data(Tensor(numbers(p.shape, 20 + i)).astype(p.dtype))
    return net


def attached(net, **settings):
    return METHODS["ia3"].attach(net, Ia3Config(**settings), Sites(), 0)


def set_values(net, names):
    values = {}
    for p in net.get_parameters():
        if p.name in names:
            p.set_data(Tensor(1 + 0.5 * numbers(p.shape, len(p.name))))
            values[p.name] = p.asnumpy()
    return values


@pytest.mark.parametrize("feedforward", [(), ("second",), ("first", "third")])
def test_forward_is_the_formula_and_so_is_the_fold(mode, feedforward):
    net = filled()
    x = Tensor(numbers((2, 4, 6), 7))
    before = net(x).asnumpy()
    base = {p.name: p.asnumpy().copy() for p in net.get_parameters()}
    owned = attached(net, target=("all-linear",), feedforward=feedforward)
    leaves = {path: IA3_L_FF if path in feedforward else IA3_L for path in ("first", "second", "third")}
    assert set(owned) == {f"{path}.{leaf}" for path, leaf in leaves.items()}
    assert {p.name for p in net.get_parameters()} == set(base) | set(owned)
    np.testing.assert_array_equal(net(x).asnumpy(), before)
    delta = set_values(net, owned)

    def layer(path, h):
        scale = delta[f"{path}.{leaves[path]}"]
        bias = base.get(f"{path}.bias", 0)
        if path in feedforward:
            return (h * scale) @ base[f"{path}.weight"].T + bias
        return (h @ base[f"{path}.weight"].T + bias) * scale

    expected = layer("third", np.maximum(layer("second", np.maximum(layer("first", x.asnumpy()), 0)), 0))
    assert np.abs(expected - before).max() > 0.1
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-5, atol=1e-5)
    update = METHODS["ia3"].merge(Ia3Config(feedforward=feedforward), delta)
    merged = Mlp()
    for p in merged.get_parameters():
        p.set_data(Tensor(update(p.name, base[p.name])))
    np.testing.assert_allclose(merged(x).asnumpy(), expected, rtol=1e-5, atol=1e-5)


def test_half_precision_keeps_its_type_and_the_scales_are_float32():
    net = filled(ms.float16)
    x = Tensor(numbers((3, 6), 3).astype(np.float16))
    before = net(x)
    assert np.all(before.asnumpy())
    owned = attached(net, target=("all-linear",), feedforward=("second",))
    after = net(x)
    assert after.dtype == ms.float16
    np.testing.assert_array_equal(after.asnumpy(), before.asnumpy())
    assert {p.dtype for p in net.get_parameters() if p.name in owned} == {ms.float32}
    # A step of a thousandth is below what float16 knows near 1 only for its last bit; bfloat16 would lose it.
    for p in net.get_parameters():
        if p.name == f"third.{IA3_L}":
            p.set_data(Tensor(np.full(p.shape, 1.002, np.float32)))
    np.testing.assert_allclose(net(x).asnumpy() / before.asnumpy(), 1.002, atol=1e-3)


WANTED = {
    "bert": {"attn.k": IA3_L, "attn.v": IA3_L, "mlp.down": IA3_L_FF},
    "gpt2": {"attn.qkv": IA3_L, "mlp.down": IA3_L_FF},
    "llama": {"attn.k": IA3_L, "attn.v": IA3_L, "mlp.down": IA3_L_FF},
}


@pytest.mark.parametrize("family", WANTED)
def test_default_layers(tmp_path, family):
    """Keys, values and the feed-forward's second projection; GPT-2 has them in one layer, which is scaled whole."""
    loaded = load_model(write_base(tmp_path, family), num_labels=2 if family == "bert" else None)
    owned = METHODS["ia3"].attach(loaded.net, Ia3Config(), loaded.sites, 0)
    expected = {
        f"layers.{i}.{cell}.{leaf}" for i in range(loaded.sites.layers) for cell, leaf in WANTED[family].items()
    }
    assert set(owned) == expected
    widths = {p.name: p.shape for p in loaded.net.get_parameters()}
    for name in owned:
        out, width = widths[f"{name.rpartition('.')[0]}.weight"]
        assert widths[name] == ((width,) if name.endswith(IA3_L_FF) else (out,))


def test_targets_without_the_feedforward(tmp_path):
    loaded = load_model(write_base(tmp_path, "llama"))
    owned = METHODS["ia3"].attach(loaded.net, Ia3Config(target="q,v", exclude="layers.0.*"), loaded.sites, 0)
    assert set(owned) == {f"layers.1.attn.{role}.{IA3_L}" for role in "qv"}


def test_what_names_nothing_is_an_error():
    with pytest.raises(TargetError, match="does not say which layers compute keys") as caught:
        attached(Mlp())
    assert "--target" in caught.value.hint and "delta.feedforward" in caught.value.hint
    with pytest.raises(TargetError, match="--target secnd matches no linear layer"):
        attached(Mlp(), target=("secnd",))
    with pytest.raises(TargetError, match=r"delta\.feedforward: third names none of the layers that ia3 scales"):
        attached(Mlp(), target=("first", "second"), feedforward=("second", "third"))
