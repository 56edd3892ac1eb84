"""The compiled training step: forward, backward, accumulation, clipping, update and schedule in one graph."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from petrun.graph.each import each
from petrun.graph.state import number, zeros_beside
from petrun.graph.unpacked import call_with
from petrun.train.adamw import AdamW
from petrun.train.clipping import GradientClipping
from petrun.typing import Cell


class TrainStep(nn.Cell):
    """One micro-batch.

    `construct(update, denominator, targets, *inputs)`: `update` is a Python bool, a constant of the graph: False adds the gradients to
    the accumulators, True adds them, clips the sum by its global norm, and updates. An update with a loss or gradient that is not
    finite changes nothing and says so.

    Returns (loss () float32 of this micro-batch's share of the step, over all ranks; gradient norm before clipping () float32; rate ()
    float32; finite () bool); the last three mean something for `update=True` only.
    """

    SUMS = "grad_sum."
    """Prefix of the accumulators' names."""

    def __init__(
        self,
        loss: Cell,
        optimizer: AdamW,
        *,
        accumulate: int = 1,
        clip: float = 1.0,
        loss_scale: float | None = None,
        hook: Any = None,
        reduce: Any = None,
    ) -> None:
        """`hook`: what the method does around each update (Method.hook), or None. `reduce`: a cell that makes the loss and gradients
        of this rank's share those of the whole batch (petrun.parallel.reduce), or None where this process holds all of it."""
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.optimizer = optimizer
        self.hooked = hook is not None
        self.hook = hook
        self.shared = reduce is not None
        self.reduce = reduce
        self.clipping = GradientClipping(clip)
        self.accumulate = accumulate > 1
        self.scaled = loss_scale is not None
        self.scale = number("loss_scale", Tensor(loss_scale or 1.0, ms.float32))
        self.clean_steps = number("clean_steps", Tensor(0, ms.int32))
        self.sums = ParameterTuple(
            [zeros_beside(p, self.SUMS) for p in optimizer.parameters] if self.accumulate else []
        )
        self.gradient = ms.value_and_grad(self.scaled_loss, None, optimizer.parameters)

    def arguments(
        self, update: bool, denominator: Tensor, targets: Tensor, *inputs: Tensor
    ) -> tuple[Tensor | bool, ...]:
        """Select the arguments of `construct` from those that the cell is called with."""
        return update, denominator, targets, *inputs

    def scaled_loss(self, denominator: Tensor, targets: Tensor, *inputs: Tensor) -> Tensor:
        """The loss times the loss scale; the logits stay inside, so they are not kept as an output."""
        value, _ = call_with(self.loss, (denominator, targets, *inputs))
        return value * self.scale if self.scaled else value

    def construct(self, update: bool, denominator: Tensor, targets: Tensor, *inputs: Tensor) -> Tensor:
        value, grads = call_with(self.gradient, (denominator, targets, *inputs))
        if self.scaled:
            value = value / self.scale
        if not update:
            if self.shared:
                value = self.reduce.value(value)
            each(add_to, self.sums, grads)
            return value, value, value, ops.isfinite(value)
        total = each(widened, grads)
        if self.accumulate:
            each(add_to, self.sums, total)
            total = each(added_up, self.sums, total)
        if self.shared:
            value, total = self.reduce(value, total)
        if self.scaled:
            total = each(ops.partial(over, self.scale), total)
        return self.finish(value, self.clipping.global_norm(total), total)

    def finish(self, value: Tensor, norm: Tensor, grads: Tensor) -> Tensor:
        """End a step, from the whole batch's loss, gradient norm and gradients: clip, update, and clear the sums."""
        # One NaN or infinity anywhere makes the norm so.
        finite = ops.logical_and(ops.isfinite(norm), ops.isfinite(value))
        # Not what the optimizer returns: a value out of its loop makes the graph as deep as there are parameters.
        rate = self.optimizer.learning_rate()
        if self.hooked or not self.optimizer.is_fused:
            self.update(self.clipping(grads, norm), finite)
        else:
            # The C++ operator multiplies as it reads, and no clipped gradients are held beside the others.
            self.optimizer(grads, finite, self.clipping.factor(norm))
        if self.accumulate:
            each(clear, self.sums)
        if self.scaled:
            self.rescale(finite)
        return value, norm, rate, finite

    def update(self, grads: Tensor, finite: Tensor) -> None:
        """The optimizer's step, and the method's own before and after it."""
        step = self.optimizer.step + 0
        if self.hooked:
            self.hook.before_update(grads, step, finite)
        self.optimizer(grads, finite)
        if self.hooked:
            self.hook.after_update(step, finite)

    def rescale(self, finite: Tensor) -> None:
        """Dynamic loss scale: halved on overflow, doubled after 1000 clean steps, within [1, 2^24]."""
        grown = ops.select(self.clean_steps >= 999, self.scale * 2.0, self.scale + 0.0)
        scale = ops.select(finite, grown, self.scale * 0.5)
        count = ops.select(self.clean_steps >= 999, ops.zeros_like(self.clean_steps), self.clean_steps + 1)
        ops.assign(self.scale, ops.clamp(scale, 1.0, 16777216.0))
        ops.assign(self.clean_steps, ops.select(finite, count, ops.zeros_like(count)))


def widened(grad: Tensor) -> Tensor:
    """A gradient in float32."""
    return grad.astype(ms.float32)


def added_up(total: Parameter, grad: Tensor) -> Tensor:
    """A gradient summed over the micro-batches, to which its accumulator has been brought.

    Where operators are split, MindSpore follows each gradient to the global norm, to sum that over the ranks that hold shards. It does not
    follow a sum, and would leave each rank with a norm of its own; it follows what depends on the gradient.
    """
    return ops.depend(total, grad)


def over(scale: Tensor, grad: Tensor) -> Tensor:
    """A gradient over the loss scale. MindSpore follows a product to the global norm, and no quotient: see added_up."""
    return grad * (1.0 / scale)


def add_to(total: Parameter, grad: Tensor) -> Tensor:
    """Add a gradient to its accumulator."""
    return ops.assign_add(total, grad.astype(ms.float32))


def clear(total: Parameter) -> Tensor:
    """Set an accumulator to zero."""
    return ops.assign(total, ops.zeros_like(total))
