"""Compile MindPet's cells, split over eight Ascend cards that are not there: forward, backward, semi-automatic parallel.

    python -m tests.parallel.split_cells CELL/ACTIVATION...        CELL: a key of CELLS

The strategies are those of MindPet's manual. Prints OK or what MindSpore refused, a line a case.
"""

import sys
from types import SimpleNamespace

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.communication import init

from petrun.delta import AdapterDense, LoRADense, LowRankAdapterDense, PrefixEncoder


class Step(nn.Cell):
    """Value and gradients of the sum of what a cell returns."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell
        self.gradient = ms.value_and_grad(self.total, None, tuple(cell.trainable_params()))

    def total(self, x):
        return self.cell(x).sum()

    def construct(self, x):
        return self.gradient(x)


class Encoded(nn.Cell):
    """The prefixes of all layers, times x."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def construct(self, x):
        total = 0.0
        for layer in self.encoder(4):
            total = total + (layer * x).sum()
        return total


def lora(activation, split):
    cell = LoRADense(8, 8, 4, 8, 0.1, activation=activation)
    cell.shard(
        strategy_org_dense_matmul=((2, 1), (4, 1)),
        strategy_org_bias_add=((2, 4), (4,)),
        strategy_lora_dropout=((2, 1),),
        strategy_lora_a_matmul=((2, 1), (1, 1)),
        strategy_lora_b_matmul=((2, 1), (4, 1)),
        strategy_lora_mul=((2, 4), ()),
        strategy_lora_add=((2, 4), (2, 4)),
        strategy_activation=split,
    )
    return cell


def lora_by_attribute(activation, split):
    """As mindformers' LoraAdapter does: from the strategy of the layer that it replaces, operator by operator, one input to the dropout."""
    cell = LoRADense(8, 8, 4, 8, 0.1, activation=activation)
    rows, outputs = (2, 1), (4, 1)
    cell.matmul.shard((rows, outputs))
    cell.bias_add.shard(((2, 4), (4,)))
    cell.lora_dropout.dropout.shard((rows,))
    cell.lora_a_matmul.shard((rows, (1, outputs[1])))
    cell.lora_b_matmul.shard(((rows[0], 1), (outputs[0], 1)))
    cell.mul.shard(((rows[0], outputs[0]), ()))
    cell.add.shard(((rows[0], outputs[0]), (rows[0], outputs[0])))
    cell.activation.shard(split)
    return cell


def adapter(activation, split):
    cell = AdapterDense(8, 8, activation=activation, bottleneck_size=4, non_linearity=activation)
    cell.shard(
        strategy_matmul_org=((2, 4), (1, 4)),
        strategy_bias_org=((2, 1), (1,)),
        strategy_activation_org=split,
        strategy_matmul_down_sampler=((2, 1), (1, 1)),
        strategy_bias_down_sampler=((2, 1), (1,)),
        strategy_non_linearity=split,
        strategy_matmul_up_sampler=((2, 1), (1, 1)),
        strategy_bias_up_sampler=((2, 1), (1,)),
        strategy_residential_add=((2, 1), (2, 1)),
    )
    return cell


def low_rank(activation, split):
    cell = LowRankAdapterDense(
        8, 8, activation=activation, reduction_factor=2, low_rank_size=2, non_linearity=activation
    )
    cell.shard(
        strategy_matmul_org=((2, 4), (1, 4)),
        strategy_bias_org=((2, 1), (1,)),
        strategy_activation_org=split,
        strategy_matmul_down_sampler_weight=((1, 1), (1, 1)),
        strategy_matmul_down_sampler_input=((2, 1), (1, 1)),
        strategy_bias_down_sampler=((2, 1), (1,)),
        strategy_non_linearity=split,
        strategy_matmul_up_sampler_weight=((1, 1), (1, 1)),
        strategy_matmul_up_sampler_input=((2, 1), (1, 1)),
        strategy_bias_up_sampler=((2, 1), (1,)),
        strategy_residual_add=((2, 1), (2, 1)),
    )
    return cell


def prefix_encoder(rows, split):
    parallel = SimpleNamespace(data_parallel=2, model_parallel=4, vocab_emb_dp=rows == "whole")
    encoder = PrefixEncoder(8, 2, 2, 4, True, 8, 0.1, parallel)
    encoder.shard(2, 4)
    return Encoded(encoder)


def told_to_compute_in_bfloat16(kind):
    return lambda name, split: CELLS[kind](name, split).to_float(ms.bfloat16)


CELLS = {
    "lora": lora,
    "lora_by_attribute": lora_by_attribute,
    "adapter": adapter,
    "low_rank": low_rank,
    "prefix_encoder": prefix_encoder,
}
CELLS |= {f"{kind}_bfloat16": told_to_compute_in_bfloat16(kind) for kind in CELLS}


def main(cases):
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("Ascend")
    init()
    ms.set_auto_parallel_context(parallel_mode="semi_auto_parallel", device_num=8, full_batch=True)
    for case in cases:
        kind, _, name = case.partition("/")
        # prelu's second input is its slope.
        split = ((2, 1), (1,)) if name == "prelu" else ((2, 1),)
        x = Tensor(np.ones(() if kind.startswith("prefix") else (8, 8)), ms.float32)
        try:
            Step(CELLS[kind](name, split)).set_train().compile(x)
        except (RuntimeError, TypeError, ValueError) as error:
            print("CASE", case, str(error).splitlines()[0], flush=True)
        else:
            print("CASE", case, "OK", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
