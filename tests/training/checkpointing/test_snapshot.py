"""What a state is written from."""

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from petrun.training.checkpointing import snapshot


class Doubled(nn.Cell):
    """Doubles its weight, as a compiled step changes it."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.ones((3, 4), np.float32)), name="weight")

    def construct(self):
        return ops.assign(self.weight, self.weight * 2.0)


def test_values_are_read_without_a_copy(graph_mode):
    """A copy of weights and moments was the peak of a run that trains all of a model: 12 bytes a value."""
    cell = Doubled()
    cell()
    (found,) = snapshot.read_values({"weight": cell.weight}).values()
    np.testing.assert_array_equal(found, np.full((3, 4), 2.0))
    assert np.shares_memory(found, cell.weight.asnumpy())
