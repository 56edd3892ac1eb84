"""The token from which a decoder classifies a row."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from petrun.typing import Tensor


class LastToken(nn.Cell):
    """What is computed of each row's last token: the rightmost one that is neither padding nor `pad_token`; without one, the first.

    Source: transformers 5.24, modeling_layers.py, GenericForSequenceClassification, which knows padding by its id alone.
    Inputs: x (B, T, H); input_ids, segment_ids (0 = padding) (B, T) int32. Returns: (B, H) float32.
    """

    def __init__(self, pad_token: int) -> None:
        super().__init__()
        self.pad_token = pad_token
        self.real, self.other, self.both = ops.Greater(), ops.NotEqual(), ops.LogicalAnd()
        self.counted, self.rightmost, self.is_last = ops.Mul(), ops.ReduceMax(keep_dims=True), ops.Equal()
        self.axis, self.picked, self.total = ops.ExpandDims(), ops.Mul(), ops.ReduceSum()

    def set_layout(self, how: str, dp: int, tp: int) -> None:
        """Shard by rows of the batch."""
        rows, states = (dp, 1), (dp, 1, 1)
        self.real.shard((rows, ()))
        self.other.shard((rows, ()))
        self.both.shard((rows, rows))
        self.counted.shard((rows, (1, 1)))
        self.rightmost.shard((rows,))
        self.is_last.shard(((1, 1), rows))
        self.axis.shard((rows,))
        self.picked.shard((states, states))
        self.total.shard((states,))

    def construct(self, x: Tensor, input_ids: Tensor, segment_ids: Tensor) -> Tensor:
        columns = ops.reshape(ops.arange(input_ids.shape[1], dtype=ms.float32), (1, -1))
        found = self.both(self.real(segment_ids, 0), self.other(input_ids, self.pad_token))
        last = self.rightmost(self.counted(ops.cast(found, ms.float32), columns), 1)
        weights = self.axis(ops.cast(self.is_last(columns, last), ms.float32), 2)
        # One state and zeros: the sum is exact.
        return self.total(self.picked(ops.cast(x, ms.float32), weights), 1)
