"""The loss that a step minimises: a sum over supervised items divided by a denominator that the caller knows.

With the denominator of the whole accumulated batch, the losses and gradients of its micro-batches add up to the exact mean over all
supervised tokens, however unevenly they lie.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from petrun.graph.unpacked import call_with
from petrun.kernels import SquaredError, TokenCrossEntropy
from petrun.typing import Cell, Tensor


class SupervisedLoss(nn.Cell):
    """Cross entropy of a net's logits; squared error of a net's one output where the targets are floats.

    Inputs: denominator () float32; targets int32, (B, T) for decoders, already shifted, or (B,) for classifiers, -100 = ignored;
    or float32 (B,), NaN = ignored, for a net that returns (B, 1); then the net's own inputs.
    Returns (sum of losses / denominator () float32, logits). Reduction: a sum, divided as told.
    """

    def __init__(self, net: Cell) -> None:
        super().__init__(auto_prefix=False)
        self.net = net
        self.cross_entropy = TokenCrossEntropy()
        self.squared_error = SquaredError()
        self.total = ops.ReduceSum()

    def construct(self, denominator: Tensor, targets: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        logits = call_with(self.net, inputs)
        if targets.dtype == ms.float32:
            errors = self.squared_error(ops.reshape(logits, (-1,)), targets)
            return self.total(errors) / denominator, logits
        flat = ops.reshape(logits, (-1, logits.shape[-1]))
        losses = self.cross_entropy(flat, ops.reshape(targets, (-1,)))
        return self.total(losses) / denominator, logits

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`column`: the logits' classes are sharded over tp ranks."""
        self.total.shard(((dp,),))
        self.cross_entropy.set_layout(how, dp, tp)
        self.squared_error.set_layout(dp)
