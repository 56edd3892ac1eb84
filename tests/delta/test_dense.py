"""Every documented activation in every dense cell: its numbers, its gradient at the extremes, and how it is split."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from petrun.delta import AdapterDense, LoRADense, LowRankAdapterDense
from petrun.kernels import named_activations
from petrun.kernels.named_activations import ACTIVATIONS, named_activation, shard_activation, usable_activation
from tests.mindpet.numbers import NAMES, NOT_SPLIT, POINTWISE, ROWWISE, Scaled, numbers, strategies

CELLS = {
    "lora": lambda **kw: LoRADense(5, 6, 2, 4, **kw),
    "adapter": lambda **kw: AdapterDense(5, 6, bottleneck_size=3, **kw),
    "low_rank": lambda **kw: LowRankAdapterDense(5, 6, reduction_factor=2, **kw),
}
STRATEGY = {"lora": "strategy_activation", "adapter": "strategy_activation_org", "low_rank": "strategy_activation_org"}


def test_the_names_are_mindpets():
    assert len(NAMES) == 25 and set(NAMES) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", [*POINTWISE, *ROWWISE])
def test_an_activation_is_its_formula(name):
    x = np.concatenate([numbers((4, 6), 1, 2.0), numbers((1, 6), 2, 0.01), np.full((1, 6), 20, np.float32)])
    expected = {**POINTWISE, **ROWWISE}[name](x.astype(np.float64))
    np.testing.assert_allclose(named_activation("test", name)(Tensor(x)).asnumpy(), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["logsigmoid", "tanh", "gelu", "silu", "sigmoid"])
def test_no_activation_overflows(mode, name):
    """MindSpore's log(1 / (1 + exp(-x))) is minus infinity below -88, with a gradient that is no number."""
    x = np.array([[-200.0, -60.0, 0.0, 200.0]], np.float32)
    cell = named_activation("test", name)
    value, slope = ms.value_and_grad(cell)(Tensor(x))
    with np.errstate(over="ignore"):
        expected = POINTWISE[name](x.astype(np.float64))
    np.testing.assert_allclose(value.asnumpy(), expected, rtol=1e-5, atol=1e-5)
    assert np.isfinite(slope.asnumpy()).all()


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("name", NAMES)
def test_every_activation_can_be_built_and_split(kind, name):
    """D7: of the names that are no special case in MindPet, none could be split."""
    if name == "threshold":
        with pytest.raises(TypeError, match="threshold needs two numbers"):
            CELLS[kind](activation=name)
        return
    cell = CELLS[kind](activation=name)
    split = {STRATEGY[kind]: ((2, 1),)}
    if name in NOT_SPLIT:
        with pytest.raises(ValueError, match="cannot be split"):
            cell.shard(**split)
        return
    cell.shard(**split)
    found = {path: s for path, s in strategies(cell).items() if path.startswith("activation")}
    assert len(found) == len([p for _, c in cell.activation.cells_and_names() for p in operators(c)])
    for strategy in found.values():
        assert strategy[0] == (2, 1) and all(cut in ((2, 1), ()) for cut in strategy)


def operators(cell):
    """The operators that are split: those of petrun's kernels only run where nothing is."""
    module = type(cell).__module__
    own_kernel = module.startswith("petrun.kernels") and module != named_activations.__name__
    return [] if own_kernel else list(cell._primitives)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("name", ["relu", "gelu", "tanh", "logsigmoid", "softmax"])
def test_the_dense_cells_apply_it(mode, kind, name):
    cell = CELLS[kind](activation=name)
    x = numbers((3, 5), 3)
    y = x @ cell.weight.asnumpy().T + cell.bias.asnumpy()
    expected = {**POINTWISE, **ROWWISE}[name](y)
    # LoRA and low-rank adapters start at the identity, an adapter near it.
    np.testing.assert_allclose(cell(Tensor(x)).asnumpy(), expected, atol=2e-3 if kind == "adapter" else 1e-5)


@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_or_an_operator_may_be_given(kind):
    x = Tensor(numbers((3, 5), 3))
    for given in (nn.ReLU(), ops.ReLU(), nn.Threshold(0.0, 0.0)):
        cell = CELLS[kind](activation=given)
        assert cell(x).asnumpy().min() > -1e-2
    operator = ops.ReLU()
    CELLS[kind](activation=operator).shard(**{STRATEGY[kind]: ((2, 1),)})
    assert operator.in_strategy == ((2, 1),)
    with pytest.raises(ValueError, match="Scaled is not one operator"):
        CELLS[kind](activation=Scaled()).shard(**{STRATEGY[kind]: ((2, 1),)})
    CELLS[kind](activation=Scaled()).shard()


@pytest.mark.parametrize("cell", [AdapterDense(5, 6), LowRankAdapterDense(5, 6, reduction_factor=2)])
def test_the_manuals_spelling_of_the_residual_strategy(cell):
    """MindPet's manual writes strategy_residential_add, its code strategy_residual_add."""
    cell.shard(strategy_residential_add=((2, 1), (2, 1)))
    assert [s for path, s in strategies(cell).items() if path.endswith("residual_add")] == [((2, 1), (2, 1))]
    layer = next(part for name, part in cell.name_cells().items() if name.startswith("mindpet_delta"))
    layer.shard(strategy_residential_add=((4, 1), (4, 1)))
    assert layer.residual_add.in_strategy == ((4, 1), (4, 1))
    for part in (cell, layer):
        with pytest.raises(ValueError, match="are the same: give one of them"):
            part.shard(strategy_residual_add=((2, 1), (2, 1)), strategy_residential_add=((2, 1), (2, 1)))


def test_the_dropouts_strategy_may_have_one_input():
    """mindformers' LoraAdapter sets it on the operator itself, which in nn.Dropout has one input."""
    cell = LoRADense(8, 6, 2, 4, 0.5)
    assert cell.lora_dropout.dropout.shard(((2, 4),)) is cell.lora_dropout.dropout
    assert cell.lora_dropout.dropout.in_strategy == ((2, 4), (2, 4))
    cell.shard(strategy_lora_dropout=((2, 1), (2, 1)))
    assert cell.lora_dropout.dropout.in_strategy == ((2, 1), (2, 1))


def test_softmax_keeps_its_axis_whole():
    for name in ("softmax", "softmin"):
        cell = named_activation("test", name)
        with pytest.raises(ValueError, match="reduces the last axis"):
            shard_activation("test", cell, ((1, 2),))
        assert not strategies(cell)


def test_softmax2d_says_that_a_dense_layer_has_two_axes():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        with pytest.raises(ValueError, match="3 or 4 dims"):
            LoRADense(5, 6, 2, 4, activation="softmax2d")(Tensor(numbers((3, 5))))
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


def test_what_a_bottleneck_may_hold():
    for name in NAMES:
        if name in ("threshold", "softmax2d", "rrelu"):
            with pytest.raises(ValueError, match="must be one of"):
                usable_activation(name)
        else:
            assert usable_activation(name) == name
