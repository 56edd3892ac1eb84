"""LoHa: initial values and settings; its numbers are held against peft in test_peft_layers.py."""

import numpy as np
import pytest
from mindspore import nn

from petrun.delta import METHODS
from petrun.delta.loha import LohaConfig, LohaDense
from petrun.errors import TargetError
from petrun.graph.sites import Sites


def test_initial_values_are_those_of_peft():
    """Uniform within 1/sqrt(columns), as kaiming_uniform_(a=sqrt(5)); the last matrix is 0."""
    cell = LohaDense(400, 50, 16, 1.0, 0, "layer")
    for part, shape in (("w1_a", (50, 16)), ("w1_b", (16, 400)), ("w2_a", (50, 16))):
        values = getattr(cell, f"mindpet_delta_loha_{part}").asnumpy()
        bound = 1 / np.sqrt(shape[1])
        assert values.shape == shape and 0.98 * bound < np.abs(values).max() <= bound
        assert abs(values.std() - bound / np.sqrt(3)) < 0.03 * bound
    assert cell.mindpet_delta_loha_w2_b.shape == (16, 400) and not cell.mindpet_delta_loha_w2_b.asnumpy().any()
    first, second = cell.mindpet_delta_loha_w1_a.asnumpy(), cell.mindpet_delta_loha_w2_a.asnumpy()
    assert np.abs(first - second).max() > 0.1


def test_ranks_and_alphas_differ_by_layer():
    net = nn.SequentialCell(nn.Dense(6, 5), nn.Dense(5, 4))
    config = LohaConfig(target=("all-linear",), rank=2, alpha=4.0, rank_pattern={"1": 3}, alpha_pattern={"0": 1.0})
    METHODS["loha"].attach(net, config, Sites(), 0)
    assert [(cell.rank, cell.scale) for cell in net] == [(2, 0.5), (3, 4 / 3)]
    with pytest.raises(TargetError, match=r"delta\.rank_pattern: 2 is none of the adapted layers"):
        METHODS["loha"].attach(net, LohaConfig(target=("all-linear",), rank_pattern={"2": 3}), Sites(), 0)
