"""Compile one rank of eight Ascend cards that are not there, and keep what MindSpore's front end made of known values.

    RANK_ID=... python -m tests.parallel.sharded_values FOLDER OPTIMIZER_SHARDS      (0: no optimizer parallel, -1: among all replicas)

Leaves FOLDER/strategy_RANK.ckpt and FOLDER/cut_RANK.safetensors.
"""

import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Layout, Parameter, Tensor, nn, ops
from mindspore.communication import get_rank, init

from petrun.tensors import array_entries, write_safetensors

SIZE = 32


def whole(seed):
    return np.arange(10_000 * seed, 10_000 * seed + SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)


class Net(nn.Cell):
    """A chain of products; each matrix split in another way over (dp, sp, mp)."""

    def __init__(self):
        super().__init__()
        lay = Layout((2, 2, 2), ("dp", "sp", "mp"))
        splits = (
            # Rows by two axes; columns; both; both with the axes changed about; rows.
            (lay("dp", "None"), lay(("sp", "mp"), "None")),
            (lay("dp", "sp"), lay("None", "sp")),
            (lay("dp", "mp"), lay("sp", "mp")),
            (lay("dp", "sp"), lay("mp", "sp")),
            (lay("dp", "None"), lay("mp", "None")),
        )
        self.products = nn.CellList()
        for seed, split in enumerate(splits):
            self.products.append(Product(whole(seed), split))
        self.scale = Parameter(Tensor(whole(9)[0]), name="scale")
        self.mul = ops.Mul().shard((lay("dp", "None"), lay("None")))

    def construct(self, x):
        for product in self.products:
            x = product(x)
        return self.mul(x, self.scale)


class Product(nn.Cell):
    def __init__(self, values, split):
        super().__init__()
        self.weight = Parameter(Tensor(values), name="weight")
        self.product = ops.MatMul(transpose_b=True).shard(split)

    def construct(self, x):
        return self.product(x, self.weight)


class Sum(nn.Cell):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.sum = ops.ReduceSum()

    def construct(self, x):
        return self.sum(self.net(x))


def main(folder, shards):
    ms.set_device("Ascend")
    ms.set_context(mode=ms.GRAPH_MODE)
    init()
    rank = get_rank()
    options = {}
    if shards:
        config = {"parallel_optimizer_threshold": 0, **({"optimizer_weight_shard_size": shards} if shards > 0 else {})}
        options = {"enable_parallel_optimizer": True, "parallel_optimizer_config": config}
    ms.set_auto_parallel_context(
        parallel_mode="semi_auto_parallel",
        device_num=8,
        global_rank=rank,
        full_batch=True,
        strategy_ckpt_config={"save_file": str(folder / f"strategy_{rank}.ckpt"), "only_trainable_params": False},
        **options,
    )
    net = Sum(Net())
    step = nn.TrainOneStepCell(net, nn.SGD(net.trainable_params()))
    step.set_train()
    step.compile(Tensor(np.ones((8, SIZE), np.float32)))
    shards = {p.name: p.asnumpy() for p in net.get_parameters()}
    write_safetensors(folder / f"cut_{rank}.safetensors", array_entries(shards))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
