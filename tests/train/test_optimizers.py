"""The table of optimizers."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from petrun.tensors.known_names import OPTIMIZER_STATE
from petrun.train.optimizers import DEFAULT_OPTIMIZER, OPTIMIZERS
from petrun.train.schedules import Schedule


def test_the_default_is_in_the_table():
    assert DEFAULT_OPTIMIZER in OPTIMIZERS


@pytest.mark.parametrize("name", list(OPTIMIZERS))
@pytest.mark.parametrize("where", ["cell", "host_cell"])
def test_the_record_describes_the_state(name, where):
    """The names and the size that the record states are those of the cell; a checkpoint's reader knows the names."""
    record = OPTIMIZERS[name]
    weight = Parameter(Tensor(np.ones((4, 3), np.float32)), name="layer.weight")
    schedule = Schedule(kind="constant", peak=1.0, warmup_steps=0, total_steps=1)
    cell = getattr(record, where)([weight], schedule, beta1=0.9, beta2=0.9, eps=1e-8, weight_decay=0.0)
    # Settings, which the graph takes as inputs, are no state.
    own = [p for p in cell.get_parameters() if p.name != "layer.weight" and not p.name.startswith("optim.")]
    stated = {pattern.removesuffix(".*") for pattern in record.state}
    assert {p.name.removesuffix(".layer.weight") for p in own} == stated
    assert sum(p.size for p in own if p.dtype == ms.float32) * 4 == record.state_bytes * weight.size
    assert set(record.state) <= set(OPTIMIZER_STATE)
