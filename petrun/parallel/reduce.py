"""Sum loss and gradients over the data-parallel ranks, inside the compiled step."""

from __future__ import annotations

from collections.abc import Iterable

from mindspore import nn, ops

from petrun.typing import Parameter, Tensor

_BUCKET = 1 << 22
"""The most values sent in one collective: each collective costs time, and each copy costs memory."""


class SumOverRanks(nn.Cell):
    """Sums loss and gradients of the ranks' shares of a batch; the result is bit-exact on every rank.

    The shares are divided by the denominator of the whole batch, so their sum is its mean. A value that is not finite on one rank is not
    finite on all. Neighbouring gradients are sent as one vector.
    Inputs: value () float32; gradients in the parameters' order, float32. Returns the same.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.shapes = tuple(tuple(p.shape) for p in parameters)
        self.sizes = (1, *(int(p.size) for p in parameters))
        self.buckets = _buckets(self.sizes)
        self.sum = ops.AllReduce()
        self.join = ops.Concat(0)

    def value(self, value: Tensor) -> Tensor:
        """Sum the loss alone."""
        return ops.reshape(self.sum(ops.reshape(value, (1,))), ())

    def construct(self, value: Tensor, grads: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        flat: tuple[Tensor, ...] = (ops.reshape(value, (1,)),)
        for grad in grads:
            flat = (*flat, ops.reshape(grad, (-1,)))
        summed: tuple[Tensor, ...] = ()
        for first, stop in self.buckets:
            joined = self.sum(self.join(flat[first:stop]))
            at = 0
            for k in range(first, stop):
                summed = (*summed, joined[at : at + self.sizes[k]])
                at = at + self.sizes[k]
        total: tuple[Tensor, ...] = ()
        for i in range(len(self.shapes)):
            total = (*total, ops.reshape(summed[i + 1], self.shapes[i]))
        return ops.reshape(summed[0], ()), total


def _buckets(sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return (first, stop) of neighbouring gradients with at most _BUCKET values together, or of one with more."""
    found, first, held = [], 0, 0
    for k, size in enumerate(sizes):
        if k > first and held + size > _BUCKET:
            found.append((first, k))
            first, held = k, 0
        held += size
    return (*found, (first, len(sizes)))
