"""Sums over ranks as one of a split job's: compile on the Ascend front end what a rank table's ranks compile between their steps.

    RANK_ID=1 RANK_SIZE=4 python -m tests.parallel.one_sum

MindSpore must find a CANN, or a stub of one, and MS_SIMULATION_LEVEL=0. Prints how a matrix is sharded before and after.
"""

import json

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from petrun.cluster.world import Sum, join
from petrun.parallel.context import setup, split_operators, undivided
from petrun.parallel.layout import Layout


class Product(nn.Cell):
    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.ones((8, 16), np.float32)), name="weight")
        self.product = ops.MatMul().shard(((2, 1), (1, 2)))

    def construct(self, x):
        return self.product(x, self.weight)


def shard():
    """This rank's slice of a matrix, and how MindSpore describes its position."""
    net = Product()
    net.compile(Tensor(np.ones((4, 8)), ms.float32))
    return net.weight.shape, str(net.parameter_layout_dict["weight"])


if __name__ == "__main__":
    world = join(setup("ascend", "float32").target)
    split_operators(Layout(dp=2, tp=2), world.rank)
    before, total = shard(), Sum()
    for shape in ((1,), (20, 6), (world.size, 512)):
        with undivided():
            total.compile(Tensor(np.ones(shape), ms.float32))
    now = [ms.get_auto_parallel_context(name) for name in ("parallel_mode", "dataset_strategy")]
    print("CUT " + json.dumps([before, shard(), now]))
