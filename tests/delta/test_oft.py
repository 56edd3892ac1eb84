"""OFT: sizes of blocks, first values and settings; its numbers are held against peft in test_peft_layers.py."""

import numpy as np
import pytest
from mindspore import Tensor, nn
from pydantic import ValidationError

from petrun.delta import METHODS
from petrun.delta.oft import OFT_R, OftConfig, nearest_divisor
from petrun.errors import DeltaError, TargetError
from petrun.graph.sites import Sites


@pytest.mark.parametrize(
    ("width", "wanted", "found"),
    # Computed by peft 0.21, adjust_oft_parameters.
    [(128, 32, 32), (48, 32, 24), (7, 32, 7), (12, 5, 4), (100, 32, 25), (768, 100, 96), (30, 8, 6), (37, 32, 37)],
)
def test_the_nearest_divisor_is_that_of_peft(width, wanted, found):
    assert nearest_divisor(width, wanted) == found


def attached(net, **settings):
    METHODS["oft"].attach(net, OftConfig(target=("all-linear",), **settings), Sites(), 0)
    return {p.name: p for p in net.get_parameters()}


def test_blocks_by_size_and_by_number():
    net = nn.SequentialCell(nn.Dense(12, 8), nn.Dense(8, 5))
    found = attached(net, block_size=4)
    assert [found[f"{i}.{OFT_R}"].shape for i in range(2)] == [(3, 6), (2, 6)]
    assert not any(found[f"{i}.{OFT_R}"].asnumpy().any() for i in range(2))
    by_number = attached(nn.SequentialCell(nn.Dense(12, 8), nn.Dense(8, 5)), blocks=2)
    assert [by_number[f"{i}.{OFT_R}"].shape for i in range(2)] == [(2, 15), (2, 6)]
    assert attached(nn.SequentialCell(nn.Dense(64, 8)))[f"0.{OFT_R}"].shape == (2, 32 * 31 // 2)


def test_a_small_rotation_is_orthogonal_and_the_outputs_norm_is_kept(pynative):
    """With five terms the series differs from Cayley's transform by powers from the fifth on."""
    net = nn.SequentialCell(nn.Dense(8, 8, has_bias=False))
    parameters = attached(net, block_size=4)
    parameters["0.weight"].set_data(Tensor(np.eye(8, dtype=np.float32)))
    rng = np.random.default_rng(0)
    parameters[f"0.{OFT_R}"].set_data(Tensor(0.02 * rng.normal(size=(2, 6)).astype(np.float32)))
    x = rng.normal(size=(5, 8)).astype(np.float32)
    y = net(Tensor(x)).asnumpy()
    assert np.abs(y - x).max() > 0.01
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1), rtol=1e-4)


def test_a_base_of_another_size():
    update = METHODS["oft"].merge(OftConfig(), {f"a.{OFT_R}": np.ones((2, 3), np.float32)})
    with pytest.raises(DeltaError, match="a: turns 6 inputs, and the base's layer has 8"):
        update("a.weight", np.zeros((4, 8), np.float32))


def test_settings_that_cannot_be():
    with pytest.raises(ValidationError, match="stands beside block_size"):
        OftConfig(block_size=4, blocks=2)
    with pytest.raises(TargetError, match="0 has 8 inputs, and the nearest divisor makes blocks of one"):
        attached(nn.SequentialCell(nn.Dense(8, 5)), blocks=8)
