"""Compute losses per token or row, of supervised targets alone."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from petrun.kernels import fused, native

IGNORED = -100
"""Target of a token that is not supervised (Hugging Face's convention)."""


def is_supervised(targets: Tensor) -> Tensor:
    """Within a graph: integer targets of any shape -> whether they are not -100; float targets -> whether they are not NaN. Bool."""
    if targets.dtype == ms.float32:
        return ops.logical_not(ops.isnan(targets))
    return targets != IGNORED


class SquaredError(nn.Cell):
    """(prediction - target)^2 per row, 0 where the target is NaN. No reduction: that is the caller's.

    Inputs: predictions (M,) float16, bfloat16 or float32; targets (M,) float32, NaN = not supervised. Returns: (M,) float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_nan, self.safe, self.masked = ops.IsNan(), ops.Select(), ops.Select()
        self.minus, self.square, self.no_target, self.no_loss = (
            ops.Sub(),
            ops.Square(),
            ops.ZerosLike(),
            ops.ZerosLike(),
        )

    def set_layout(self, dp: int) -> None:
        """Rows over dp ranks."""
        rows = (dp,)
        for operator in (self.is_nan, self.square, self.no_target, self.no_loss):
            operator.shard((rows,))
        self.minus.shard((rows, rows))
        self.safe.shard((rows, rows, rows))
        self.masked.shard((rows, rows, rows))

    def construct(self, predictions: Tensor, targets: Tensor) -> Tensor:
        missing = self.is_nan(targets)
        # NaN times 0 is NaN: a gradient may not meet it, even where it is masked afterwards.
        safe = self.safe(missing, self.no_target(targets), targets)
        loss = self.square(self.minus(ops.cast(predictions, ms.float32), safe))
        return self.masked(missing, self.no_loss(loss), loss)


class TokenCrossEntropy(fused.FusedCell):
    """-log softmax(logits)[target] per row, 0 where the target is -100. No reduction: that is the caller's.

    Inputs: logits (M, V) float16, bfloat16 or float32; targets (M,) int32, in 0..V-1 or -100.
    Returns: (M,) float32.
    """

    def __init__(self) -> None:
        super().__init__()
        library = native.library()
        self.is_fused = library is not None
        self.fused = fused.if_built(fused.cross_entropy, library)
        self.known, self.safe, self.masked = ops.NotEqual(), ops.Select(), ops.Select()
        self.largest, self.minus, self.exp, self.total = (
            ops.ReduceMax(keep_dims=True),
            ops.Sub(),
            ops.Exp(),
            ops.ReduceSum(),
        )
        self.log, self.less = ops.Log(), ops.Sub()
        self.one_hot, self.picked, self.only = ops.OneHot(), ops.Mul(), ops.ReduceSum()
        self.no_target, self.no_loss = ops.ZerosLike(), ops.ZerosLike()
        self.is_sharded = False

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """`column`: the vocabulary over tp ranks; else (M, V) by rows."""
        rows, shards = (dp,), (dp, tp if how == "column" else 1)
        self.known.shard((rows, ()))
        self.safe.shard((rows, rows, rows))
        self.masked.shard((rows, rows, rows))
        self.largest.shard((shards,))
        self.minus.shard((shards, (dp, 1)))
        self.exp.shard((shards,))
        self.total.shard((shards,))
        for operator in (self.log, self.no_target, self.no_loss):
            operator.shard((rows,))
        self.less.shard((rows, rows))
        self.one_hot.shard((shards, (), ()))
        self.picked.shard((shards, shards))
        self.only.shard((shards,))
        self.is_sharded = True

    def construct(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.is_fused and logits.dtype == ms.float32 and targets.dtype == ms.int32:
            return self.fused(logits, targets)[0]
        logits = ops.cast(logits, ms.float32)
        known = self.known(targets, IGNORED)
        safe = self.safe(known, targets, self.no_target(targets))
        # From exp and log, because log_softmax on the CPU turns a NaN among the logits into -inf elsewhere.
        shifted = self.minus(logits, ops.stop_gradient(self.largest(logits, -1)))
        if self.is_sharded:
            # A gather along a sharded axis is refused.
            one, none = Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)
            picked = self.only(self.picked(shifted, self.one_hot(safe, logits.shape[-1], one, none)), -1)
        else:
            picked = ops.squeeze(ops.gather_elements(shifted, 1, ops.expand_dims(safe, 1)), 1)
        loss = self.less(self.log(self.total(self.exp(shifted), -1)), picked)
        return self.masked(known, loss, self.no_loss(loss))
