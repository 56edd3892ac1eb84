"""Adapters against numpy, MindPet's names, exceptions and strategies, and --algo adapter."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun.delta import METHODS, AdapterDense, AdapterLayer
from petrun.delta.adapter import AdapterConfig
from petrun.errors import TargetError
from petrun.graph.sites import Sites
from tests.mindpet.numbers import POINTWISE, numbers, strategies

BLOCK = "mindpet_delta_adapter_block"
DOWN, UP = f"{BLOCK}.mindpet_delta_adapter_down_sampler", f"{BLOCK}.mindpet_delta_adapter_up_sampler"


def fill(cell, scale=0.5):
    """Set every parameter; returns name -> value."""
    for i, (_, p) in enumerate(cell.parameters_and_names()):
        p.set_data(Tensor(numbers(p.shape, i + 1, scale)))
    return {name: p.asnumpy() for name, p in cell.parameters_and_names()}


def layer(x, v, prefix="", act="gelu"):
    """The formula."""
    middle = POINTWISE[act](x @ v[f"{prefix}{DOWN}.weight"].T + v[f"{prefix}{DOWN}.bias"])
    return x + middle @ v[f"{prefix}{UP}.weight"].T + v[f"{prefix}{UP}.bias"]


@pytest.mark.parametrize("act", ["gelu", "relu", "silu", "leakyrelu"])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_layer_is_the_formula(mode, shape, act):
    cell = AdapterLayer(6, 3, act)
    values, x = fill(cell), numbers(shape, 9)
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), layer(x, values, act=act), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5)])
def test_dense_is_the_formula(mode, shape, bias):
    cell = AdapterDense(5, 6, has_bias=bias, activation="tanh", bottleneck_size=3)
    values, x = fill(cell), numbers(shape, 9)
    h = np.tanh(x @ values["weight"].T + (values["bias"] if bias else 0))
    expected = layer(h, values, "mindpet_delta_adapter.")
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), expected, rtol=1e-5, atol=1e-5)


def test_names_shapes_and_initial_values():
    cell = AdapterDense(50, 60, bottleneck_size=32)
    values = {name: p.asnumpy() for name, p in cell.parameters_and_names()}
    assert {name: v.shape for name, v in values.items()} == {
        "weight": (60, 50),
        "bias": (60,),
        f"mindpet_delta_adapter.{DOWN}.weight": (32, 60),
        f"mindpet_delta_adapter.{DOWN}.bias": (32,),
        f"mindpet_delta_adapter.{UP}.weight": (60, 32),
        f"mindpet_delta_adapter.{UP}.bias": (60,),
    }
    assert {p.name for p in cell.get_parameters()} == set(values)
    for sampler in (DOWN, UP):
        weight = values[f"mindpet_delta_adapter.{sampler}.weight"]
        assert abs(weight.std() - 0.01) < 1e-3 and abs(weight.mean()) < 1e-3
        assert not values[f"mindpet_delta_adapter.{sampler}.bias"].any()


def test_a_new_layer_is_near_the_identity():
    x = numbers((8, 64), 1)
    moved = AdapterLayer(64)(Tensor(x)).asnumpy() - x
    assert 0 < np.abs(moved).max() < 0.05


@pytest.mark.parametrize("dtype", [ms.float16, ms.float32])
def test_the_result_has_the_dtype_of_the_input(dtype):
    x = Tensor(numbers((3, 6)), dtype)
    assert AdapterLayer(6, 3)(x).dtype == dtype
    assert AdapterDense(6, 5, bottleneck_size=3, compute_dtype=ms.float16)(x).dtype == dtype


def test_float32_is_computed_in_float32():
    """D6: MindPet's default is float16 for the base's own product as well: 70000 would be infinite, 1/3 lose 1e-4."""
    cell = AdapterDense(1, 1, weight_init="ones", bottleneck_size=2)
    x = np.array([[70000.0], [1 / 3]], np.float32)
    values = {name: p.asnumpy() for name, p in cell.parameters_and_names()}
    expected = layer(x, values, "mindpet_delta_adapter.")
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), expected, rtol=1e-6)
    assert not np.isfinite(AdapterDense(1, 1, weight_init="ones", compute_dtype=ms.float16)(Tensor(x)).asnumpy()).all()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"in_channels": 5.0}, TypeError),
        ({"in_channels": 0}, ValueError),
        ({"out_channels": -6}, ValueError),
        ({"out_channels": "6"}, TypeError),
        ({"bottleneck_size": 0}, ValueError),
        ({"bottleneck_size": 1.5}, TypeError),
        ({"bottleneck_size": True}, TypeError),
        ({"has_bias": 1}, TypeError),
        ({"param_init_type": 1}, TypeError),
        ({"param_init_type": ms.float64}, TypeError),
        ({"compute_dtype": "a"}, TypeError),
        ({"compute_dtype": ms.int32}, TypeError),
        ({"activation": "a"}, KeyError),
        ({"activation": 1}, TypeError),
        ({"weight_init": "a"}, ValueError),
        ({"weight_init": None}, TypeError),
        ({"weight_init": Tensor(np.zeros((3, 3), np.float32))}, ValueError),
        ({"bias_init": "a"}, ValueError),
        ({"bias_init": None}, TypeError),
        ({"bias_init": Tensor(np.zeros(3, np.float32))}, ValueError),
        ({"non_linearity": "a"}, TypeError),
        ({"non_linearity": 1}, TypeError),
    ],
)
def test_documented_exceptions_of_the_dense(arguments, error):
    with pytest.raises(error):
        AdapterDense(**{"in_channels": 5, "out_channels": 6, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"hidden_size": 16.5}, TypeError),
        ({"hidden_size": 0}, ValueError),
        ({"hidden_size": True}, TypeError),
        ({"bottleneck_size": -1}, ValueError),
        ({"bottleneck_size": 1.5}, TypeError),
        ({"param_init_type": ms.int8}, TypeError),
        ({"compute_dtype": 1}, TypeError),
        ({"non_linearity": "no_such"}, TypeError),
        ({"non_linearity": nn.ReLU()}, TypeError),
    ],
)
def test_documented_exceptions_of_the_layer(arguments, error):
    with pytest.raises(error):
        AdapterLayer(**{"hidden_size": 6, **arguments})


def test_shard_reaches_every_operator():
    cell = AdapterDense(8, 8, activation="sigmoid", bottleneck_size=4)
    cell.shard(
        strategy_matmul_org=((2, 4), (1, 4)),
        strategy_bias_org=((2, 1), (1,)),
        strategy_activation_org=((2, 1),),
        strategy_matmul_down_sampler=((2, 1), (1, 1)),
        strategy_bias_down_sampler=((4, 1), (1,)),
        strategy_non_linearity=((8, 1),),
        strategy_matmul_up_sampler=((2, 2), (1, 2)),
        strategy_bias_up_sampler=((2, 2), (2,)),
        strategy_residual_add=((2, 4), (2, 4)),
    )
    below = "mindpet_delta_adapter"
    assert strategies(cell) == {
        "matmul": ((2, 4), (1, 4)),
        "bias_add": ((2, 1), (1,)),
        "activation.sigmoid": ((2, 1),),
        f"{below}.{DOWN}.matmul": ((2, 1), (1, 1)),
        f"{below}.{DOWN}.bias_add": ((4, 1), (1,)),
        f"{below}.{BLOCK}.mindpet_delta_adapter_non_linear.gelu": ((8, 1),),
        f"{below}.{UP}.matmul": ((2, 2), (1, 2)),
        f"{below}.{UP}.bias_add": ((2, 2), (2,)),
        f"{below}.residual_add": ((2, 4), (2, 4)),
    }


def test_shard_sets_nothing_that_is_not_given_and_refuses_no_tuple():
    cell = AdapterDense(8, 8, has_bias=False, activation="relu")
    cell.shard()
    assert not strategies(cell)
    with pytest.raises(TypeError):
        cell.shard(strategy_matmul_org=1)
    with pytest.raises(TypeError):
        cell.shard(strategy_matmul_down_sampler=1)
    with pytest.raises(ValueError, match="LogSoftmax cannot be split"):
        AdapterLayer(8, non_linearity="logsoftmax").shard(strategy_non_linearity=((2, 1),))


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.up = nn.Dense(6, 8)
        self.down = nn.Dense(8, 6, activation="relu", has_bias=False)

    def construct(self, x):
        return self.down(ops.relu(self.up(x)))


def attach(net, seed=0, **settings):
    sites = Sites(sublayers=("down",))
    return METHODS["adapter"].attach(net, AdapterConfig(bottleneck=4, **settings), sites, seed)


def test_attach_follows_the_sub_layers_and_starts_at_the_identity(mode):
    net = Net()
    net.set_train(False)
    x = Tensor(numbers((3, 6), 1))
    before = net(x).asnumpy()
    names = {p.name for p in net.get_parameters()}
    owned = attach(net)
    assert set(owned) == {
        f"down.mindpet_delta_adapter.{sampler}.{leaf}" for sampler in (DOWN, UP) for leaf in ("weight", "bias")
    }
    assert {p.name for p in net.get_parameters()} == names | set(owned)
    np.testing.assert_array_equal(net(x).asnumpy(), before)
    values = {p.name: p for p in net.get_parameters()}
    for i, name in enumerate(owned):
        values[name].set_data(Tensor(numbers(values[name].shape, i)))
    v = {name: p.asnumpy() for name, p in values.items()}
    h = np.maximum(x.asnumpy() @ v["up.weight"].T + v["up.bias"], 0)
    expected = layer(np.maximum(h @ v["down.weight"].T, 0), v, "down.mindpet_delta_adapter.")
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-4, atol=1e-4)


def test_initial_values_depend_on_seed_and_path_alone():
    def initial(seed, target):
        net = Net()
        attach(net, seed, target=target)
        return {p.name: p.asnumpy() for p in net.get_parameters() if p.name.endswith(f"{DOWN}.weight")}

    one, again, other = initial(1, "up,down"), initial(1, "down"), initial(2, "down")
    name = f"down.mindpet_delta_adapter.{DOWN}.weight"
    assert len(one) == 2
    np.testing.assert_array_equal(one[name], again[name])
    assert np.abs(one[name] - other[name]).max() > 0


def test_a_half_precision_base_keeps_its_type():
    net = Net()
    net.to_float(ms.float16)
    for p in net.get_parameters():
        p.set_dtype(ms.float16)
    attach(net)
    types = {p.name: p.dtype for p in net.get_parameters()}
    assert types["down.weight"] == ms.float16
    assert all(types[name] == ms.float32 for name in types if "mindpet_delta" in name)
    assert net.down.compute_dtype == ms.float16


def test_settings_and_places_that_are_wrong():
    with pytest.raises(ValueError, match="must be one of"):
        AdapterConfig(activation="rrelu")
    with pytest.raises(ValueError):
        AdapterConfig(bottleneck=0)
    with pytest.raises(TargetError, match="where its sub-layers end"):
        METHODS["adapter"].attach(Net(), AdapterConfig(), Sites(), 0)
    with pytest.raises(TargetError, match="--target dwon matches no linear layer"):
        attach(Net(), target="dwon")


def test_it_is_no_rewriting_of_weights():
    assert METHODS["adapter"].merge is None and METHODS["adapter"].owning
