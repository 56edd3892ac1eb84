"""LoKr: how sizes are divided, initial values and settings; its numbers are held against peft in test_peft_layers.py."""

import numpy as np
import pytest
from mindspore import nn
from pydantic import ValidationError

from petrun.delta import METHODS
from petrun.delta.lokr import LokrConfig, divided
from petrun.errors import DeltaError, TargetError
from petrun.graph.sites import Sites


@pytest.mark.parametrize(
    ("width", "factor", "wanted"),
    # The first four are those of peft's own docstring; the others were computed by peft 0.21.
    [
        (256, -1, (16, 16)),
        (128, -1, (8, 16)),
        (127, -1, (1, 127)),
        (128, 4, (4, 32)),
        (12, 5, (3, 4)),
        (30, 10, (10, 3)),
        (768, -1, (24, 32)),
        (768, 7, (6, 128)),
    ],
)
def test_a_width_is_divided_as_by_peft(width, factor, wanted):
    assert divided(width, factor) == wanted


def test_initial_values_are_those_of_peft():
    """The first matrix is 0; the others uniform within 1/sqrt(columns), as kaiming_uniform_(a=sqrt(5))."""
    net = nn.SequentialCell(nn.Dense(900, 400))
    METHODS["lokr"].attach(net, LokrConfig(target=("all-linear",), rank=4), Sites(), 0)
    values = {p.name.rpartition("lokr_")[2]: p.asnumpy() for p in net.get_parameters() if "lokr" in p.name}
    assert {name: v.shape for name, v in values.items()} == {"w1": (20, 30), "w2_a": (20, 4), "w2_b": (4, 30)}
    assert not values["w1"].any()
    for name in ("w2_a", "w2_b"):
        bound = 1 / np.sqrt(values[name].shape[1])
        assert 0.9 * bound < np.abs(values[name]).max() <= bound


def test_a_base_of_another_size():
    tensors = {f"a.mindpet_delta_lokr_w{i}": np.ones((2, 3), np.float32) for i in (1, 2)}
    update = METHODS["lokr"].merge(LokrConfig(), tensors)
    assert update("a.weight", np.zeros((4, 9), np.float32)).shape == (4, 9)
    for shape in ((4, 8), (6, 9)):
        with pytest.raises(
            DeltaError, match=r"a: its product is \[4, 9\], which is not the shape of the base's matrix"
        ):
            update("a.weight", np.zeros(shape, np.float32))


def test_settings():
    assert set(LokrConfig(rank=4, decompose_both=True).shapes("a", 400, 900)) == {
        f"mindpet_delta_lokr_w{i}_{part}" for i in (1, 2) for part in "ab"
    }
    assert set(LokrConfig(rank=16).shapes("a", 400, 900)) == {"mindpet_delta_lokr_w1", "mindpet_delta_lokr_w2"}
    assert LokrConfig(rank=4, rank_pattern={"a": 3}).shapes("a", 400, 900)["mindpet_delta_lokr_w2_a"] == (20, 3)
    for wrong in (0, -2):
        with pytest.raises(ValidationError, match="must be a positive whole number, or -1"):
            LokrConfig(decompose_factor=wrong)
    with pytest.raises(TargetError, match=r"delta\.rank_pattern: 2 is none of the adapted layers"):
        net = nn.SequentialCell(nn.Dense(6, 5))
        METHODS["lokr"].attach(net, LokrConfig(target=("all-linear",), rank_pattern={"2": 3}), Sites(), 0)
