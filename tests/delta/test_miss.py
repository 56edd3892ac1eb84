"""MiSS: first values, dropout and settings; its numbers are held against peft in test_peft_layers.py."""

import itertools

import numpy as np
import pytest
from mindspore import Tensor, nn

from petrun.delta import METHODS
from petrun.delta.miss import MISS_BLOCK, MissConfig
from petrun.errors import TargetError
from petrun.graph.sites import Sites


def attached(*widths, **settings):
    net = nn.SequentialCell(*(nn.Dense(a, b) for a, b in itertools.pairwise(widths)))
    METHODS["miss"].attach(net, MissConfig(target=("all-linear",), **settings), Sites(), 0)
    return net, {p.name: p for p in net.get_parameters()}


def test_one_matrix_a_layer_that_begins_at_0():
    _, found = attached(12, 8, 7, rank=5)
    assert [found[f"{i}.{MISS_BLOCK}"].shape for i in range(2)] == [(5, 8), (5, 7)]
    assert not any(found[f"{i}.{MISS_BLOCK}"].asnumpy().any() for i in range(2))


def test_dropout_acts_on_what_is_added_and_in_training_alone(pynative):
    net, found = attached(12, 8, rank=5, dropout=0.5)
    x = Tensor(np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32))
    base = net(x).asnumpy()
    net.set_train(True)
    np.testing.assert_array_equal(net(x).asnumpy(), base)
    found[f"0.{MISS_BLOCK}"].set_data(Tensor(np.ones((5, 8), np.float32)))
    dropped = net(x).asnumpy()
    net.set_train(False)
    np.testing.assert_allclose(net(x).asnumpy() - base, np.tile(x.asnumpy().sum(1)[:, None], 8), rtol=1e-4, atol=1e-4)
    assert np.abs(dropped - net(x).asnumpy()).max() > 0.1


def test_a_block_that_is_wider_than_the_inputs():
    with pytest.raises(TargetError, match=r"1 has 8 inputs, fewer than a block of delta\.rank 9"):
        attached(12, 8, 7, rank=9)
