"""Low-rank adapters against numpy, MindPet's names, exceptions and strategies, and --algo low_rank_adapter."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.common.initializer import Normal

from petrun.delta import METHODS, LowRankAdapterDense, LowRankAdapterLayer, LowRankLinear
from petrun.delta.low_rank_adapter import LowRankAdapterConfig
from petrun.errors import TargetError
from petrun.graph.sites import Sites
from tests.mindpet.numbers import POINTWISE, numbers, strategies

MARK = "mindpet_delta_low_rank_adapter"
DOWN, UP = f"{MARK}_down_sampler", f"{MARK}_up_sampler"
LEFT, RIGHT = f"{MARK}_weight_left", f"{MARK}_weight_right"


def fill(cell):
    """Set every parameter; returns name -> value."""
    for i, (_, p) in enumerate(cell.parameters_and_names()):
        p.set_data(Tensor(numbers(p.shape, i + 1, 0.5)))
    return {name: p.asnumpy() for name, p in cell.parameters_and_names()}


def linear(x, v, prefix=""):
    return x @ (v[f"{prefix}{LEFT}"] @ v[f"{prefix}{RIGHT}"]) + v.get(f"{prefix}bias", 0)


def layer(x, v, prefix="", act="gelu"):
    """The formula."""
    return x + linear(POINTWISE[act](linear(x, v, f"{prefix}{DOWN}.")), v, f"{prefix}{UP}.")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_linear_is_the_formula(mode, shape, bias):
    cell = LowRankLinear(6, 5, rank=2, has_bias=bias)
    values, x = fill(cell), numbers(shape, 9)
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), linear(x, values), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("act", ["gelu", "relu", "sigmoid"])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
def test_layer_is_the_formula(mode, shape, act):
    cell = LowRankAdapterLayer(6, 2, 2, non_linearity=act)
    values, x = fill(cell), numbers(shape, 9)
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), layer(x, values, act=act), rtol=1e-5, atol=1e-5)


def test_dense_is_the_formula_and_has_gradients(mode):
    """MindPet's cell fails on MindSpore 2: LowRankLinear has no attribute `cast`."""
    cell = LowRankAdapterDense(5, 6, activation="tanh", reduction_factor=2, low_rank_size=2)
    values, x = fill(cell), numbers((2, 3, 5), 9)
    h = np.tanh(x @ values["weight"].T + values["bias"])
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), layer(h, values, f"{MARK}."), rtol=1e-5, atol=1e-5)
    weights = [p for p in cell.get_parameters() if MARK in p.name]
    _, gradients = ms.value_and_grad(Summed(cell), None, weights)(Tensor(x))
    assert all(np.abs(g.asnumpy()).max() > 0 for g in gradients)


class Summed(nn.Cell):
    def __init__(self, cell):
        super().__init__(auto_prefix=False)
        self.cell = cell

    def construct(self, x):
        return (self.cell(x) * self.cell(x)).sum()


def test_a_split_layer_forms_the_product_first_and_computes_the_same():
    cell = LowRankAdapterLayer(8, 2, 2)
    fill(cell)
    x = Tensor(numbers((3, 8), 9))
    before = cell(x).asnumpy()
    cell.compile_cache.clear()
    assert cell.shard() is cell
    assert getattr(cell, DOWN).product_first
    np.testing.assert_allclose(cell(x).asnumpy(), before, rtol=1e-5, atol=1e-5)


def test_a_new_layer_is_the_identity():
    """D3: MindPet draws all four factors, which moves the output of a base by a third of its scale."""
    x = numbers((8, 64), 1)
    for size in (1, 4):
        np.testing.assert_array_equal(LowRankAdapterLayer(64, 4, size)(Tensor(x)).asnumpy(), x)
    dense = LowRankAdapterDense(64, 32, low_rank_w_init=Normal(1.0))
    values = {name: p.asnumpy() for name, p in dense.parameters_and_names()}
    expected = x @ values["weight"].T + values["bias"]
    np.testing.assert_allclose(dense(Tensor(x)).asnumpy(), expected, rtol=1e-5, atol=1e-6)
    assert not values[f"{MARK}.{UP}.{RIGHT}"].any()
    drawn = (f"{MARK}.{DOWN}.{LEFT}", f"{MARK}.{DOWN}.{RIGHT}", f"{MARK}.{UP}.{LEFT}")
    assert all(0.5 < values[name].std() < 1.5 for name in drawn)


def test_names_and_shapes():
    cell = LowRankAdapterDense(50, 60, reduction_factor=4, low_rank_size=3)
    assert {name: p.shape for name, p in cell.parameters_and_names()} == {
        "weight": (60, 50),
        "bias": (60,),
        f"{MARK}.{DOWN}.{LEFT}": (60, 3),
        f"{MARK}.{DOWN}.{RIGHT}": (3, 15),
        f"{MARK}.{DOWN}.bias": (15,),
        f"{MARK}.{UP}.{LEFT}": (15, 3),
        f"{MARK}.{UP}.{RIGHT}": (3, 60),
        f"{MARK}.{UP}.bias": (60,),
    }
    assert {p.name for p in cell.get_parameters()} == {name for name, _ in cell.parameters_and_names()}


def test_float32_is_computed_in_float32():
    """D6: with float16 as the default, 70000 is infinite."""
    cell = LowRankAdapterDense(1, 1, weight_init="ones")
    x = np.array([[70000.0], [1 / 3]], np.float32)
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), x, rtol=1e-6)
    half = LowRankAdapterDense(4, 4, reduction_factor=2, compute_dtype=ms.float16)
    assert half(Tensor(numbers((2, 4)))).dtype == ms.float32
    assert half(Tensor(numbers((2, 4)), ms.float16)).dtype == ms.float16


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"in_channels": 5.1}, TypeError),
        ({"in_channels": -5}, ValueError),
        ({"out_channels": 4.1}, TypeError),
        ({"out_channels": 0}, ValueError),
        ({"activation": "1"}, KeyError),
        ({"activation": 1}, TypeError),
        ({"weight_init": "1"}, ValueError),
        ({"weight_init": None}, TypeError),
        ({"weight_init": Tensor(np.ones((2, 4, 5), np.float32))}, ValueError),
        ({"bias_init": None}, TypeError),
        ({"bias_init": Tensor(np.ones(5, np.float32))}, ValueError),
        ({"has_bias": "1"}, TypeError),
        ({"has_bias": 1}, TypeError),
        ({"reduction_factor": 3.2}, TypeError),
        ({"reduction_factor": 0}, ValueError),
        ({"reduction_factor": 7}, ValueError),
        ({"low_rank_size": 1.2}, TypeError),
        ({"low_rank_size": -1}, ValueError),
        ({"low_rank_w_init": 1}, TypeError),
        ({"low_rank_w_init": None}, TypeError),
        ({"low_rank_w_init": "a"}, ValueError),
        ({"non_linearity": 1}, TypeError),
        ({"non_linearity": "1"}, TypeError),
        ({"param_init_type": ms.float64}, TypeError),
        ({"compute_dtype": "a"}, TypeError),
    ],
)
def test_documented_exceptions(arguments, error):
    with pytest.raises(error):
        LowRankAdapterDense(**{"in_channels": 5, "out_channels": 6, "reduction_factor": 2, **arguments})
    of_layer = {k: v for k, v in arguments.items() if k.startswith(("reduction", "low", "non", "param", "compute"))}
    if of_layer:
        with pytest.raises(error):
            LowRankAdapterLayer(**{"hidden_size": 6, "reduction_factor": 2, **of_layer})


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"in_channels": 0}, ValueError),
        ({"out_channels": "a"}, TypeError),
        ({"rank": 0}, ValueError),
        ({"rank": True}, TypeError),
        ({"has_bias": 0}, TypeError),
        ({"bias_init": Tensor(np.ones((2, 4), np.float32))}, ValueError),
        ({"param_init_type": 1}, TypeError),
        ({"compute_dtype": ms.int32}, TypeError),
    ],
)
def test_documented_exceptions_of_the_linear(arguments, error):
    with pytest.raises(error):
        LowRankLinear(**{"in_channels": 5, "out_channels": 4, **arguments})
    with pytest.raises(ValueError):
        LowRankAdapterLayer(hidden_size=0, reduction_factor=1)


def test_shard_reaches_every_operator():
    cell = LowRankAdapterDense(8, 8, activation="relu", reduction_factor=2)
    returned = cell.shard(
        strategy_matmul_org=((2, 4), (1, 4)),
        strategy_bias_org=((2, 1), (1,)),
        strategy_activation_org=((2, 1),),
        strategy_matmul_down_sampler_weight=((1, 1), (1, 2)),
        strategy_matmul_down_sampler_input=((2, 1), (1, 1)),
        strategy_bias_down_sampler=((4, 1), (1,)),
        strategy_non_linearity=((8, 1),),
        strategy_matmul_up_sampler_weight=((2, 1), (1, 1)),
        strategy_matmul_up_sampler_input=((2, 2), (2, 1)),
        strategy_bias_up_sampler=((2, 2), (2,)),
        strategy_residual_add=((2, 4), (2, 4)),
    )
    assert returned is cell
    assert strategies(cell) == {
        "matmul": ((2, 4), (1, 4)),
        "bias_add": ((2, 1), (1,)),
        "activation.relu": ((2, 1),),
        f"{MARK}.{DOWN}.matmul_weight": ((1, 1), (1, 2)),
        f"{MARK}.{DOWN}.matmul_input": ((2, 1), (1, 1)),
        f"{MARK}.{DOWN}.bias_add": ((4, 1), (1,)),
        f"{MARK}.{MARK}_non_linear.gelu": ((8, 1),),
        f"{MARK}.{UP}.matmul_weight": ((2, 1), (1, 1)),
        f"{MARK}.{UP}.matmul_input": ((2, 2), (2, 1)),
        f"{MARK}.{UP}.bias_add": ((2, 2), (2,)),
        f"{MARK}.residual_add": ((2, 4), (2, 4)),
    }
    with pytest.raises(TypeError):
        cell.shard(strategy_matmul_up_sampler_input=1)
    with pytest.raises(ValueError, match="LogSoftmax"):
        LowRankAdapterLayer(8, 2, non_linearity="logsoftmax").shard(strategy_non_linearity=((2, 1),))


def attach(seed=0, **settings):
    net = nn.SequentialCell(nn.Dense(6, 8), nn.Dense(8, 6))
    owned = METHODS["low_rank_adapter"].attach(net, LowRankAdapterConfig(**settings), Sites(sublayers=("1",)), seed)
    return net, owned


def test_attach_follows_the_sub_layers_and_starts_at_the_identity(mode):
    net, owned = attach(low_rank_size=2)
    leaves = (LEFT, RIGHT, "bias")
    assert set(owned) == {f"1.{MARK}.{sampler}.{leaf}" for sampler in (DOWN, UP) for leaf in leaves}
    v = {p.name: p.asnumpy() for p in net.get_parameters()}
    assert v[f"1.{MARK}.{DOWN}.{RIGHT}"].shape == (2, 1)
    x = numbers((3, 6), 1)
    expected = (x @ v["0.weight"].T + v["0.bias"]) @ v["1.weight"].T + v["1.bias"]
    np.testing.assert_allclose(net(Tensor(x)).asnumpy(), expected, rtol=1e-5, atol=1e-6)
    drawn = [name for name in owned if np.any(v[name])]
    assert sorted(drawn) == sorted(f"1.{MARK}.{tail}" for tail in (f"{DOWN}.{LEFT}", f"{DOWN}.{RIGHT}", f"{UP}.{LEFT}"))
    again = {p.name: p.asnumpy() for p in attach(low_rank_size=2)[0].get_parameters()}
    other = {p.name: p.asnumpy() for p in attach(1, low_rank_size=2)[0].get_parameters()}
    for name in drawn:
        np.testing.assert_array_equal(again[name], v[name])
        assert np.abs(other[name] - v[name]).max() > 0


def test_a_factor_that_leaves_no_bottleneck_names_the_layer():
    with pytest.raises(TargetError, match=r"reduction_factor 7 leaves no bottleneck: 1 is 6 wide"):
        attach(reduction_factor=7)
