"""AdaLoRA's budget: choose inside the compiled step which triplets of the net stay in use.

    I = |w dL/dw|;   I' <- beta1 I' + (1 - beta1) I;   U' <- beta2 U' + (1 - beta2) |I - I'|;   s(w) = I' U'
    S_i = s(e_i) + mean_j s(A_ij) + mean_j s(B_ji);   e_i <- 0 unless S_i is among the b(t) largest of all layers together

Source: Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", arXiv 2303.10512: equations 8 to 11 for
the importance of one entry, 7 for a triplet's, 6 for the masking, 12 for b(t); algorithm 1 for the order: the importance is that of the
weights and gradients before the update (peft takes the weights after it). Equation 12 is used as in the authors' code, with
(t - t_i) / (T - t_i - t_f) in the cube: as printed it would begin above b(0).
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops

from petrun.delta.adalora.dense import AdaLoraDense
from petrun.graph.each import each
from petrun.graph.state import zeros_beside
from petrun.tensors import Array
from petrun.typing import Parameter


def budget_plan(first: int, last: int, begin: int, end: int, every: int, total: int) -> Array:
    """Return (T,) int32: for t = 1 to T updates done, how many triplets stay in use, or 0 where none are pruned at t.

    The number falls from `first` at t = begin to `last` at t = total - end, cubically, every `every` updates; then it stays.
    """
    span = total - end - begin
    plan = np.zeros(total, np.int32)
    for t in range(begin + 1, total - end):
        if t % every == 0:
            # In integers, for the same budget on every machine.
            plan[t - 1] = last + (first - last) * (span - (t - begin)) ** 3 // span**3
    plan[total - end - 1] = last
    return plan


class RankAllocator(nn.Cell):
    """Method.hook of AdaLoRA. Between two allocations a pruned triplet may grow again; after the last one it may not.

    Owns: adalora_sensitivity.<parameter> and adalora_uncertainty.<parameter>, I' and U' of every A, e and B, float32.
    """

    def __init__(
        self,
        layers: Sequence[AdaLoraDense],
        parameters: Sequence[Parameter],
        *,
        beta1: float,
        beta2: float,
        plan: Array,
    ) -> None:
        super().__init__(auto_prefix=False)
        places = {p.name: i for i, p in enumerate(parameters)}
        self.layers = len(layers)
        self.rank = int(layers[0].mindpet_delta_adalora_e.shape[0])
        self.values = ParameterTuple([layer.mindpet_delta_adalora_e for layer in layers])
        self.keeps = ParameterTuple([layer.mindpet_delta_adalora_keep for layer in layers])
        # A, B and e, layer by layer.
        weights = [
            p
            for layer in layers
            for p in (layer.mindpet_delta_adalora_a, layer.mindpet_delta_adalora_b, layer.mindpet_delta_adalora_e)
        ]
        self.weights = ParameterTuple(weights)
        self.places = tuple(places[p.name] for p in weights)
        self.sensitivity = ParameterTuple([zeros_beside(p, "adalora_sensitivity.") for p in weights])
        self.uncertainty = ParameterTuple([zeros_beside(p, "adalora_uncertainty.") for p in weights])
        self.beta1 = beta1
        self.beta2 = beta2
        # It has one number: see AdamW.
        self.zero = Tensor(0.0, ms.float32)
        self.plan = Tensor(plan)
        self.last = len(plan) - 1
        self.settled = int(np.flatnonzero(plan)[-1])
        # Primitives compile faster than functions, which matters with hundreds of parameters.
        self.abs = ops.Abs()
        self.assign = ops.Assign()
        self.mean = ops.ReduceMean()
        self.concat = ops.Concat(0)
        self.split = ops.Split(0, self.layers)
        self.top = ops.TopK(sorted=True)

    def before_update(self, grads: Tensor, step: Tensor, finite: Tensor) -> None:
        """Update the importance of each entry at this step; not after the last allocation."""
        noting = ops.cast(ops.logical_and(step <= self.settled, finite), ms.float32)
        new1, new2 = noting * (1.0 - self.beta1), noting * (1.0 - self.beta2)
        old1, old2 = 1.0 - new1, 1.0 - new2
        note = ops.partial(self.note, grads, (finite, old1, new1, old2, new2))
        each(note, self.weights, self.places, self.sensitivity, self.uncertainty)

    def note(
        self,
        grads: tuple[Tensor, ...],
        shared: tuple[Tensor, ...],
        weight: Parameter,
        place: int,
        sensitivity: Parameter,
        uncertainty: Parameter,
    ) -> Tensor:
        """Note it for the entries of one parameter, whose gradient stands at `place`. `shared`: see before_update."""
        finite, old1, new1, old2, new2 = shared
        now = self.abs(ops.select(finite, weight * grads[place], self.zero))
        smooth = old1 * sensitivity + new1 * now
        spread = old2 * uncertainty + new2 * self.abs(now - smooth)
        self.assign(sensitivity, smooth)
        return self.assign(uncertainty, spread)

    def after_update(self, step: Tensor, finite: Tensor) -> None:
        """Set e to 0 where a triplet is pruned; from the last allocation on for good."""
        planned = ops.gather(self.plan, ops.minimum(step, self.last), 0)
        budget = ops.select(finite, planned, ops.zeros_like(planned))
        chosen = ops.cast(self.chosen(self.scores(), budget), ms.float32)
        # 1 where nothing is pruned: outside allocations, and for the masks before the last one.
        now = self.split(ops.select(budget > 0, chosen, ops.ones_like(chosen)))
        kept = self.split(ops.select(ops.logical_and(step == self.settled, finite), chosen, ops.ones_like(chosen)))
        each(self.drop, self.values, self.keeps, now, kept)

    def drop(self, values: Parameter, keep: Parameter, now: Tensor, kept: Tensor) -> Tensor:
        """Set a layer's e to 0 where it is masked by `now` or was by `keep`, and mask it for good by `kept`."""
        self.assign(values, values * keep * now)
        return self.assign(keep, keep * kept)

    def scores(self) -> Tensor:
        """Return S of all triplets, layer by layer, (layers * R,); -1 for those pruned for good."""
        first, second = self.sensitivity, self.uncertainty
        pairs = first[0::3], second[0::3], first[1::3], second[1::3], first[2::3], second[2::3]
        return self.concat(each(self.score, *pairs, self.keeps))

    def score(
        self,
        a_sensitivity: Parameter,
        a_uncertainty: Parameter,
        b_sensitivity: Parameter,
        b_uncertainty: Parameter,
        e_sensitivity: Parameter,
        e_uncertainty: Parameter,
        keep: Parameter,
    ) -> Tensor:
        """Return S of one layer's triplets, (R,)."""
        right = self.mean(a_sensitivity * a_uncertainty, 1)
        left = self.mean(b_sensitivity * b_uncertainty, 0)
        # keep is 0 or 1: S as it is, or -1.
        return (right + left + e_sensitivity * e_uncertainty) * keep + (keep - 1.0)

    def chosen(self, scores: Tensor, budget: Tensor) -> Tensor:
        """Return (M,) bool: the `budget` largest; of equal ones the first."""
        ordered, _ = self.top(scores, self.layers * self.rank)
        least = ops.gather(ordered, ops.maximum(budget - 1, 0), 0)
        above = scores > least
        level = scores == least
        places = ops.cumsum(ops.cast(level, ms.int32), 0)
        free = budget - ops.cast(above, ms.int32).sum()
        return ops.logical_or(above, ops.logical_and(level, places <= free))
