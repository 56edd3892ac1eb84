"""The loss on rows with one answer and whether that is desirable.

B rows, T tokens. With g the sum of log-probabilities of an answer minus the same sum by the net that the run begins from, and g' that of
another row's answer to the same prompt:

    kto    desirable    w_d sigmoid(-beta (g - z0))  =  w_d (1 - sigmoid(beta (g - z0)))
           undesirable  w_u sigmoid(-beta (z0 - g))  =  w_u (1 - sigmoid(beta (z0 - g)))
           z0 = max(0, mean of g' over the rows of a micro-batch on all ranks), a constant for gradients
           Ethayarajh et al., arXiv 2402.01306, eq. (7) and (8)
"""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from petrun.graph.unpacked import call_with
from petrun.kernels import TokenCrossEntropy
from petrun.train.preference import PreferenceSettings, answer_sums
from petrun.typing import Cell, Tensor


class KahnemanTversky(nn.Cell):
    """Inputs: gains (B, 2) float32, g and g' of each row; desirable (B,) int32, 1 or 0; complete (B,) bool, rows that count.
    Returns: (B,) float32, 0 for rows that do not count.
    """

    def __init__(self, settings: PreferenceSettings, *, many_ranks: bool = False) -> None:
        """`many_ranks`: the rows of a batch are shared by ranks, over all of which z0 is the mean."""
        super().__init__()
        self.beta = settings.beta
        self.good, self.bad = settings.desirable_weight, settings.undesirable_weight
        self.over_ranks = ops.AllReduce() if many_ranks else nn.Identity()

    def construct(self, gains: Tensor, desirable: Tensor, complete: Tensor) -> Tensor:
        counted = ops.cast(complete, ms.float32)
        mismatched = ops.select(complete, gains[:, 1], ops.zeros_like(gains[:, 1]))
        # Nothing is learned from mismatched answers.
        sums = ops.stop_gradient(ops.stack((ops.sum(mismatched), ops.sum(counted))))
        # The ranks' sums are constants as well: no gradient goes through the collective.
        sums = ops.stop_gradient(self.over_ranks(sums))
        center = ops.relu(sums[0] / ops.maximum(sums[1], ops.ones_like(sums[1])))
        wanted = ops.cast(desirable, ms.float32)
        better = (2.0 * wanted - 1.0) * (gains[:, 0] - center)
        weights = self.good * wanted + self.bad * (1.0 - wanted)
        values = weights * ops.sigmoid(-self.beta * better)
        return ops.select(complete, values, ops.zeros_like(values))


class UnpairedLoss(nn.Cell):
    """A loss on rows of two sequences, the prompt with its own and with another row's answer (petrun/data/examples/mismatched.py).

    Inputs: denominator () float32; targets (B, T) int32, shifted, -100 = ignored; base (B, 2) float32; desirable (B,) int32; then the net's
    own inputs, among them segment_ids, 1 for the first sequence of a row and 2 for the second.
    Returns (sum of losses / denominator () float32, logits). A row without a target in one of its sequences counts for nothing.
    """

    def __init__(self, net: Cell, kind: Cell, segments: int) -> None:
        """`kind`: as KahnemanTversky; `segments`: the place of segment_ids among the net's inputs."""
        super().__init__(auto_prefix=False)
        self.net, self.kind, self.segments = net, kind, segments
        self.cross_entropy = TokenCrossEntropy()

    def construct(self, denominator: Tensor, targets: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        own = inputs[2:]
        logits = call_with(self.net, own)
        flat = ops.reshape(logits, (-1, logits.shape[-1]))
        losses = ops.reshape(self.cross_entropy(flat, ops.reshape(targets, (-1,))), targets.shape)
        log_probs, found = answer_sums(losses, targets, own[self.segments])
        complete = ops.logical_and(found[:, 0] > 0.0, found[:, 1] > 0.0)
        values = self.kind(log_probs - inputs[0], inputs[1], complete)
        return ops.sum(values) / denominator, logits
