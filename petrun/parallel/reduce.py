"""Sum loss and gradients over the data-parallel ranks, inside the compiled step."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from mindspore import nn, ops

from petrun.graph.each import each
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
        sizes = (1, *(int(p.size) for p in parameters))
        self.buckets = tuple((first, stop, *_places(sizes[first:stop])) for first, stop in _buckets(sizes))
        self.sum = ops.AllReduce()
        self.join = ops.Concat(0)

    def value(self, value: Tensor) -> Tensor:
        """Sum the loss alone."""
        return ops.reshape(self.sum(ops.reshape(value, (1,))), ())

    def construct(self, value: Tensor, grads: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        flat = (ops.reshape(value, (1,)), *each(_flat, grads))
        summed: tuple[Tensor, ...] = ()
        for first, stop, starts, ends in self.buckets:
            summed = (*summed, *each(ops.partial(_piece, self.sum(self.join(flat[first:stop]))), starts, ends))
        return ops.reshape(summed[0], ()), each(_like, summed[1:], grads)


def _places(sizes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return where vectors of these sizes begin and end in one that holds them all."""
    ends = tuple(accumulate(sizes))
    return (0, *ends[:-1]), ends


def _flat(grad: Tensor) -> Tensor:
    return ops.reshape(grad, (-1,))


def _piece(joined: Tensor, start: int, end: int) -> Tensor:
    return joined[start:end]


def _like(flat: Tensor, grad: Tensor) -> Tensor:
    return ops.reshape(flat, grad.shape)


def _buckets(sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return (first, stop) of neighbouring gradients with at most _BUCKET values together, or of one with more."""
    found, first, held = [], 0, 0
    for k, size in enumerate(sizes):
        if k > first and held + size > _BUCKET:
            found.append((first, k))
            first, held = k, 0
        held += size
    return (*found, (first, len(sizes)))
