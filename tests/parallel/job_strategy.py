"""Compile a training step of petrun's own net for one rank of eight Ascend cards that are not there, and keep its strategy file.

    RANK_ID=... python -m tests.parallel.job_strategy BASE FILE pretrain|finetune

pretrain: everything trains, data parallel, parameters and the optimizer's state sharded among all 8. finetune: LoRA on (2, 4), the adapted
layers split by their outputs, B as well, A whole.
"""

import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.communication import get_rank, init

from petrun.delta import METHODS, LoRADense
from petrun.graph.freeze import freeze_all_but
from petrun.models.factory import load_model
from petrun.parallel.context import setup

B, T = 8, 16


class Sum(nn.Cell):
    """A loss that any net has."""

    def __init__(self, net):
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, *inputs):
        return self.net(*inputs).sum()


def split(net):
    """MindPet's own strategies of a column-parallel layer."""
    for _, cell in net.cells_and_names():
        if isinstance(cell, LoRADense):
            cell.shard(
                strategy_org_dense_matmul=((2, 1), (4, 1)),
                strategy_org_bias_add=((2, 4), (4,)),
                strategy_lora_dropout=((2, 1),),
                strategy_lora_a_matmul=((2, 1), (1, 1)),
                strategy_lora_b_matmul=((2, 1), (4, 1)),
                strategy_lora_mul=((2, 4), ()),
                strategy_lora_add=((2, 4), (2, 4)),
            )


def main(base, file, what):
    setup("ascend", "float32")
    init()
    zero = {"enable_parallel_optimizer": True, "parallel_optimizer_config": {"parallel_optimizer_threshold": 0}}
    ms.set_auto_parallel_context(
        parallel_mode="semi_auto_parallel",
        device_num=8,
        global_rank=get_rank(),
        full_batch=True,
        strategy_ckpt_config={"save_file": str(file), "only_trainable_params": False},
        **(zero if what == "pretrain" else {}),
    )
    loaded = load_model(base, compute_dtype="float32")
    method = METHODS["full" if what == "pretrain" else "lora"]
    owned = method.attach(loaded.net, method.config(**({} if what == "pretrain" else {"rank": 2})), loaded.sites, 0)
    if what == "finetune":
        split(loaded.net)
    parameters = freeze_all_but(loaded.net, owned).parameters
    loaded.net.set_train(True)
    step = nn.TrainOneStepCell(Sum(loaded.net), nn.AdamWeightDecay(parameters))
    step.set_train()
    ids = Tensor(np.ones((B, T), np.int32))
    step.compile(*(ids for _ in loaded.inputs))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
