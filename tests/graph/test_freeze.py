"""What trains, and in which type."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from petrun.errors import TargetError, TrainingError
from petrun.graph.freeze import freeze_all_but, match_parameters
from petrun.graph.surgery import shared_names, untie


def net(dtype=ms.float32):
    made = nn.SequentialCell(nn.Dense(3, 4, dtype=dtype), nn.Dense(4, 2, dtype=dtype))
    for path, parameter in made.parameters_and_names():
        parameter.name = path
    return made


def test_exactly_the_owned_names_train():
    made = net()
    trainable = freeze_all_but(made, ["1.bias", "0.weight"])
    assert [p.name for p in trainable.parameters] == ["0.weight", "1.bias"]
    assert [p.name for p in made.get_parameters() if p.requires_grad] == ["0.weight", "1.bias"]
    assert trainable.trained_values == 14 and trainable.all_values == 26
    assert trainable.share == pytest.approx(14 / 26)


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16])
def test_what_trains_becomes_float32_and_keeps_its_value(dtype):
    made = net(dtype)
    before = {p.name: p.float().asnumpy() for p in made.get_parameters()}
    freeze_all_but(made, ["0.weight"])
    types = {p.name: p.dtype for p in made.get_parameters()}
    assert types == {"0.weight": ms.float32, "0.bias": dtype, "1.weight": dtype, "1.bias": dtype}
    for parameter in made.get_parameters():
        np.testing.assert_array_equal(parameter.float().asnumpy(), before[parameter.name])


def test_nothing_and_unknown_names_are_errors():
    with pytest.raises(TrainingError, match="nothing is trainable"):
        freeze_all_but(net(), [])
    with pytest.raises(TrainingError, match=r"does not have: 2\.weight"):
        freeze_all_but(net(), ["0.weight", "2.weight"])


def test_patterns_match_parameters_or_are_named():
    assert match_parameters(net(), ["*.bias", "0.*"], "--x") == ("0.bias", "1.bias", "0.weight")
    with pytest.raises(TargetError, match=r"--x 0\.wieght matches no parameter. Did you mean 0\.weight"):
        match_parameters(net(), ["0.wieght", "1.bias"], "--x")


class _Tied(nn.Cell):
    """Two layers that share a matrix."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Dense(3, 3), nn.Dense(3, 3)
        self.second.weight = self.first.weight
        for path, parameter in self.parameters_and_names():
            parameter.name = path


def test_a_shared_matrix_is_found_by_either_name():
    net = _Tied()
    assert shared_names(net) == {"second.weight": "first.weight"}
    assert match_parameters(net, ["second.w*"], "--train-also") == ("first.weight",)
    assert match_parameters(net, ["*.weight"], "--train-also") == ("first.weight",)
    before = net.first.weight.asnumpy()
    untie(net, "second.weight")
    assert shared_names(net) == {}
    assert match_parameters(net, ["second.w*"], "--train-also") == ("second.weight",)
    net.second.weight.set_data(net.second.weight + 1.0)
    np.testing.assert_array_equal(net.first.weight.asnumpy(), before)
